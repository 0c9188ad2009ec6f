from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import nn

from mtlfleet.errors import EnvironmentProblem, UnknownName, among, nearest
from mtlfleet.methods.base import Method, Needs, OutOfDomain, Step, TaskGradients, Weights, method
from mtlfleet.plan.streams import stream


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """What a component keeps between its calls, by attribute."""

    kept: Mapping[str, Any]


@method("torchjd")
@dataclass(frozen=True, slots=True, kw_only=True)
class TorchJD(Method[Remembered | None]):
    r"""A weighting or scalarizer of the TorchJD library, run on this engine.

    In a study ``use: torchjd.UPGrad``. ``component``: its name, ``UPGrad`` or ``UPGradWeighting`` for weightings of the
    Gram matrix, ``STCH`` for scalarizers; where both exist the scalarizer, which needs one backward only. ``params``:
    its own arguments; lists of numbers become tensors.

    Math        The component's own.
    Shapes      gram ``[K, K]`` or losses ``[K]`` -> weights ``[K]``; state: the component's attributes, or none.
    Source      Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024, and the sources that the
                library names.
    Departures  Weights from the Gram matrix in float64 on the CPU; draws are keyed by (seed, step). What ``GradVac``
                and ``PCD`` remember is in the checkpoint. Scalarizers with state (they want to be told of epochs,
                steps or an optimizer) are refused, as are components that look at the whole Jacobian, which exists on
                no rank. The library's version is not part of a trial's key.
    Properties  none

    >>> from mtlfleet import methods
    >>> methods.weights("torchjd.AlignedMTL", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.5528, 0.4146], dtype=torch.float64)
    """

    member: ClassVar[str] = "component"

    component: str = "AlignedMTL"
    params: Any = None

    def __post_init__(self) -> None:
        _ = self._built

    @property
    def _built(self) -> nn.Module:
        return _build(self.component, json.dumps(dict(self.params or {}), sort_keys=True))

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs.LOSSES if _scalarizes(self._built) else Needs.GRAM

    @property
    def heads(self) -> str:  # type: ignore[override]
        return "weighted" if _scalarizes(self._built) else "unweighted"

    def init(self, tasks: int) -> Remembered | None:  # noqa: ARG002
        return Remembered(_memory(self._built)) if _remembers(self._built) else None

    def pack(self, state: Remembered | None) -> dict[str, Any] | None:
        return None if state is None else dict(state.kept)

    def unpack(self, packed: dict[str, Any] | None, tasks: int) -> Remembered | None:
        return self.init(tasks) if packed is None else Remembered(packed)

    def step(self, grads: TaskGradients, state: Remembered | None, at: Step) -> tuple[Remembered | None, str]:
        built = self._built
        if state is not None:  # the component is shared by all trials of this process: a copy takes the step
            built = copy.deepcopy(built)
            for name, value in copy.deepcopy(dict(state.kept)).items():
                setattr(built, name, value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(at.seed, "torchjd", at.number))
            if _scalarizes(built):
                leaf = grads.losses.detach().clone().requires_grad_()
                (found,) = torch.autograd.grad(built(leaf), leaf)
            else:
                found = built(grads.gram().to(device="cpu", dtype=torch.float64))
        grads.apply(Weights(found.detach().to(torch.float64)))
        return None if state is None else Remembered(_memory(built)), "ok"


def _remembers(built: nn.Module) -> bool:
    stateful = import_module("torchjd").__dict__.get("Stateful") or import_module("torchjd._mixins").Stateful
    return isinstance(built, stateful)


def _memory(built: nn.Module) -> dict[str, Any]:
    """Buffers and plain attributes, copied."""
    own = {name: value for name, value in vars(built).items() if name not in vars(nn.Module())}
    return copy.deepcopy({**built._buffers, **own})


def _scalarizes(built: nn.Module) -> bool:
    return type(built).__module__.startswith("torchjd.scalarization")


@lru_cache(maxsize=64)
def _build(component: str, params: str) -> nn.Module:
    """Raises UnknownName, EnvironmentProblem without the library, OutOfDomain for components that do not fit."""
    known = _components()
    if component not in known:
        close = nearest(component, known)
        raise UnknownName(
            f"torchjd has no weighting of a Gram matrix and no scalarizer called `{component}`",
            notes=[among(sorted(known), component)],
            help=f"did you mean `{close}`?" if close else None,
        )
    given = {name: _tensor(value) for name, value in json.loads(params).items()}
    try:
        built: nn.Module = known[component](**given)
    except (TypeError, ValueError, ImportError) as error:
        raise OutOfDomain(f"torchjd.{component}: {error}", help="see the library's documentation") from error
    if (_remembers(built) and _scalarizes(built)) or any(True for _ in built.parameters()):
        raise OutOfDomain(
            f"torchjd.{component} keeps state of its own, which a checkpoint would lose",
            help="`mtlfleet methods list` has most of them under their own names",
        )
    return built


def _components() -> dict[str, type[nn.Module]]:
    """Weightings of the Gram matrix under both their names, then scalarizers."""
    try:
        aggregation, scalarization = (import_module(f"torchjd.{part}") for part in ("aggregation", "scalarization"))
    except ImportError as error:
        raise EnvironmentProblem(
            f"torchjd is not installed: {error}", help="install it with: pip install 'mtlfleet[torchjd]'"
        ) from error
    found: dict[str, type[nn.Module]] = {}
    for name in aggregation.__all__:
        kind = getattr(aggregation, name)
        if name.endswith("Weighting") and any(base.__name__ == "_GramianWeighting" for base in kind.__mro__):
            found[name] = found[name.removesuffix("Weighting")] = kind
    found.update({name: getattr(scalarization, name) for name in scalarization.__all__ if name != "Scalarizer"})
    return found


def _tensor(value: Any) -> Any:
    """A list of numbers as float64 tensor, anything else as it is."""
    numbers = isinstance(value, list) and all(isinstance(v, (int, float)) for v in value)
    return torch.tensor(value, dtype=torch.float64) if numbers else value
