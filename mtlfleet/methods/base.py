"""Families of methods, told apart by what they look at. That decides cost, memory, tests and docs.

A method is a frozen dataclass: its fields are its hyper-parameters, the study file's keys and part of a trial's key.
Its state is a value: ``init`` makes it, ``step`` returns the next one, nothing hides in ``self``. The engine calls
``step`` with a lazy view of one step's task gradients; what is not asked for is not computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

from torch import Tensor

from mtlfleet.engine.gradients import Gram, Losses, Needs, Rows, Step, TaskGradients, Weights
from mtlfleet.errors import FleetError
from mtlfleet.methods.ahead import LookAhead
from mtlfleet.registry import register

S = TypeVar("S")

__all__ = [
    "Decision",
    "Elementwise",
    "Gram",
    "GramWeighting",
    "LookAhead",
    "LossWeighting",
    "Losses",
    "Method",
    "Needs",
    "OptimizerState",
    "OutOfDomain",
    "OwnStep",
    "RepresentationMethod",
    "RepresentationWeighting",
    "Rows",
    "Step",
    "TaskGradients",
    "Weights",
    "method",
]


class OutOfDomain(FleetError):
    """A method was given what it has no meaning for: a negative loss under a logarithm, weights for other tasks."""

    exit_code = 3


def method(name: str) -> Any:
    """Register a class as a method: ``@method("cagrad")``."""
    return register("method", name)


class Decision(NamedTuple):
    """What a weighting method decided: weights [K] float64, the next state, the solver's word (``"ok"`` or why not)."""

    weights: Weights
    state: Any
    status: str = "ok"


class Method(ABC, Generic[S]):
    """What every family shares.

    Class-level literals (read without importing): ``heads`` says whether task-specific parameters receive the plain
    gradient of their own loss (``"unweighted"``) or that gradient times the task's weight (``"weighted"``); ``presets``
    names conventions of a source, ``{"nash": {"c": 0.4}}`` for ``cagrad@nash``; ``single_task`` marks the single-task
    reference; ``batches`` is how many batches a step looks at (``grads.batches``, ``grads.cross_gram``; the last one's
    gradient is written); ``outer_batches`` is how many more ``look_ahead`` is served before each step, from
    ``outer_split``: the training split in another order (``"train_split"``) or ``"val"``; ``observes`` asks for the
    same batch's losses after the optimizer's step; ``reforward`` is how that second pass runs: ``"same"`` dropout and
    untouched running statistics, or once more in ``"train_mode"``;
    ``shared_norm`` is where the engine cuts the norm of the shared gradient, for methods that cannot;
    ``weight_sum`` is what the weights add up to, and so the scale of a step beside that of a plain sum: ``"tasks"`` or
    ``"one"`` at every step, ``"free"``, or ``"none"`` where there are no weights;
    ``own_optimizers`` gives each of the ``turns`` of a batch an optimizer of its own; ``owns_update`` marks those whose
    direction is the update itself, for plain SGD to apply; ``shards`` names packed state fields that hold this rank's
    columns, of which a checkpoint keeps every rank's. A method whose sources disagree on ``heads`` makes it a
    hyper-parameter; it is read from the instance.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[Needs]
    heads: ClassVar[str] = "unweighted"
    batches: ClassVar[int] = 1
    outer_batches: ClassVar[int] = 0
    outer_split: ClassVar[str] = "train_split"
    single_task: ClassVar[bool] = False
    observes: ClassVar[bool] = False
    reforward: ClassVar[str] = "same"
    shared_norm: ClassVar[float | None] = None
    weight_sum: ClassVar[str] = "free"
    own_optimizers: ClassVar[bool] = False
    owns_update: ClassVar[bool] = False
    shards: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    def init(self, tasks: int) -> S:  # noqa: ARG002
        """The state before the first step; None for stateless methods."""
        return None  # type: ignore[return-value]

    def turns(self, tasks: int) -> int:  # noqa: ARG002
        """How many optimizer steps a batch is used for, each with a forward pass and a method step of its own."""
        return 1

    @abstractmethod
    def step(self, grads: TaskGradients, state: S, at: Step) -> tuple[S, str]:
        """Look at ``grads``, write the shared gradient through it, give the next state and the solver's word."""

    @property
    def drawn(self) -> int:
        """Batches that a step draws in all: what a budget of samples counts."""
        return self.batches + self.outer_batches

    def look_ahead(self, ahead: LookAhead, state: S, at: Step) -> S:  # noqa: ARG002
        """Before a step, if ``outer_batches``: what the losses would do on another batch -> the state to step with."""
        return state

    def observe(self, before: Losses, after: Losses, state: S, at: Step) -> S:  # noqa: ARG002
        """Losses [K] of the global batch before and after the optimizer's step -> the next state, if ``observes``."""
        return state

    def report(self, state: S) -> Mapping[str, Tensor]:  # noqa: ARG002
        """What a step is remembered by beside losses and weights: numbers per task [K] by name, equal on every rank."""
        return {}

    def pack(self, state: S) -> dict[str, Any] | None:
        """The state as tensors and numbers, for a checkpoint; parts of a state that has parts as ``part.field``."""
        if state is None:
            return None
        if is_dataclass(state):
            return _flat(state)
        raise TypeError(
            f"{type(self).__name__}: a state is None or a dataclass of tensors and numbers, found {type(state)}"
        )

    def unpack(self, packed: dict[str, Any] | None, tasks: int) -> S:
        """Inverse of ``pack``."""
        empty = self.init(tasks)
        if packed is None or empty is None:
            return empty
        return cast("S", _rebuilt(empty, packed))


def _flat(state: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for f in fields(state):
        value = getattr(state, f.name)
        found |= _flat(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return found


def _rebuilt(like: Any, packed: dict[str, Any], prefix: str = "") -> Any:
    """A state of the same types as ``like`` with the packed values."""
    values = {}
    for f in fields(like):
        part = getattr(like, f.name)
        name = prefix + f.name
        values[f.name] = _rebuilt(part, packed, f"{name}.") if is_dataclass(part) else packed[name]
    return type(like)(**values)


class LossWeighting(Method[S]):
    """Weights from the losses alone: one ordinary backward of ``weights @ losses``."""

    needs: ClassVar[Needs] = Needs.LOSSES
    heads: ClassVar[str] = "weighted"

    @abstractmethod
    def weigh(self, losses: Losses, state: S, at: Step) -> Decision:
        """losses [K] (means over the global batch, float64) -> weights [K]."""

    def step(self, grads: TaskGradients, state: S, at: Step) -> tuple[S, str]:
        decision = self.weigh(grads.losses, state, at)
        grads.apply(decision.weights)
        return decision.state, decision.status


class GramWeighting(Method[S]):
    """Weights from the Gram matrix of the task gradients: K backwards, one K x K all-reduce, no K x P anywhere."""

    needs: ClassVar[Needs] = Needs.GRAM

    @abstractmethod
    def weigh(self, gram: Gram, losses: Losses, state: S, at: Step) -> Decision:
        """gram [K, K] float64, positive semi-definite, of globally averaged gradients; losses [K] -> weights [K]."""

    def step(self, grads: TaskGradients, state: S, at: Step) -> tuple[S, str]:
        decision = self.weigh(grads.gram(), grads.losses, state, at)
        grads.apply(decision.weights)
        return decision.state, decision.status


class RepresentationMethod(Method[S]):
    """Anything done to the gradients at the representation: K passes through heads, one through the trunk."""

    needs: ClassVar[Needs] = Needs.REPRESENTATION


class RepresentationWeighting(RepresentationMethod[S]):
    """Weights from the Gram of the gradients at the representation: K passes through heads, one through the trunk.

    ``convention``: ``"concat"`` (samples side by side) or ``"batch_sum"``; a hyper-parameter where sources disagree.
    """

    convention: str = "concat"

    @abstractmethod
    def weigh(self, gram: Gram, losses: Losses, state: S, at: Step) -> Decision:
        """gram [K, K] float64, positive semi-definite; losses [K] -> weights [K]."""

    def step(self, grads: TaskGradients, state: S, at: Step) -> tuple[S, str]:
        decision = self.weigh(grads.representation.gram(self.convention), grads.losses, state, at)
        grads.representation.apply(decision.weights)
        return decision.state, decision.status


class Elementwise(Method[S]):
    """A rule for each coordinate: sees this rank's columns of all task gradients."""

    needs: ClassVar[Needs] = Needs.ROWS

    @abstractmethod
    def merge(self, rows: Rows, columns: Tensor, state: S, at: Step) -> tuple[Tensor, S]:
        """rows [K, n]; ``columns`` int64 [n] are their places in the flattened shared gradient -> [n]."""

    def step(self, grads: TaskGradients, state: S, at: Step) -> tuple[S, str]:
        merged, state = self.merge(grads.rows(), grads.columns, state, at)
        grads.write(merged)
        return state, "ok"


class OwnStep(Method[S]):
    """A step that is no single rule: state in shards and sums over ranks, or rows of several batches."""

    needs: ClassVar[Needs] = Needs.ROWS


class OptimizerState(Method[S]):
    """An update made of per-task optimizer states, which live on this rank's columns."""

    needs: ClassVar[Needs] = Needs.ROWS

    @abstractmethod
    def update(self, rows: Rows, state: S, at: Step) -> tuple[Tensor, S]:
        """rows [K, n] -> the direction [n] that is written as gradient."""

    def step(self, grads: TaskGradients, state: S, at: Step) -> tuple[S, str]:
        direction, state = self.update(grads.rows(), state, at)
        grads.write(direction)
        return state, "ok"
