from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from mtlfleet import registry
from mtlfleet.engine.gradients import AtRepresentation
from mtlfleet.linalg.gram import clip
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import (
    Gram,
    Losses,
    Method,
    Needs,
    OutOfDomain,
    Rows,
    Step,
    TaskGradients,
    Weights,
    method,
)


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """The inner method's packed state, the last weights [K] and how many steps have used the solution behind them."""

    inner: Any
    weights: Tensor
    used: int


class Listening:
    """TaskGradients that keep what is applied instead of applying it; of the logarithms of the losses, if so asked."""

    def __init__(self, grads: TaskGradients, logs: bool) -> None:
        self.grads = grads
        self.inverse = 1.0 / grads.losses if logs else torch.ones_like(grads.losses)
        self.losses = Losses(torch.log(grads.losses)) if logs else grads.losses
        self.weights: Tensor | None = None
        self.own: Weights | None = None

    @property
    def columns(self) -> Tensor:
        return self.grads.columns

    def gram(self) -> Gram:
        return Gram(self.grads.gram() * (self.inverse[:, None] * self.inverse[None, :]))

    def rows(self) -> Rows:
        rows = self.grads.rows()
        return Rows(rows * self.inverse[:, None].to(rows))

    def grams(self, by: str = "tensor") -> tuple[tuple[str, ...], Tensor]:
        names, each = self.grads.grams(by)
        return names, each * (self.inverse[:, None] * self.inverse[None, :])

    def total(self, partial: Tensor) -> Tensor:
        return self.grads.total(partial)

    def cross_gram(self, first: int, second: int) -> Tensor:  # noqa: ARG002
        raise OutOfDomain("stabilised looks at one batch a step; its method wants several")

    @property
    def representation(self) -> AtRepresentation:
        raise OutOfDomain("stabilised works on task weights; its method weighs at the representation")

    def apply_grouped(self, weights: Tensor, by: str = "tensor") -> None:  # noqa: ARG002
        raise OutOfDomain("stabilised works on one weight per task; its method has one per group of parameters")

    def apply_mean(self, weights: Weights) -> None:  # noqa: ARG002
        raise OutOfDomain("stabilised looks at one batch a step; its method wants several")

    def scale_own(self, factors: Weights) -> None:
        self.own = Weights(factors * self.inverse)

    def apply(self, weights: Weights) -> None:
        self.weights = weights * self.inverse

    def write(self, direction: Tensor) -> None:  # noqa: ARG002
        raise OutOfDomain("stabilised works on task weights; its method makes the update itself")


@lru_cache(maxsize=64)
def _built(name: str, params: str) -> Method[Any]:
    return cast("Method[Any]", registry.build("method", name, **json.loads(params)))


@method("stabilised")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stabilised(Method[Smoothed]):
    r"""Another method's weights, made steadier: averaged over steps, reused, of logarithms of losses, or cut in norm.

    ``use``: the method, ``mgda`` or ``cagrad@nash``; ``params``: its hyper-parameters. ``ema``: the part of the last
    weights in the present ones. ``update_every``: solve at every n-th step and reuse the weights in between, where a
    step then costs one backward. ``log_losses``: balance the logarithms of the losses. ``max_norm``: the update's norm
    is cut there at steps that solve; None is no limit.

    Math        :math:`\alpha_t = \eta\, \alpha_{t-1} + (1 - \eta)\, \hat\alpha_t`, :math:`\alpha_0 = \hat\alpha_0`;
                with logarithms :math:`\hat\alpha_k / \ell_k` of weights found for :math:`\nabla \ln \ell_k`.
    Shapes      as the inner method's; state: its state, the last weights ``[K]`` and their age.
    Source      Zhou et al., On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond, NeurIPS
                2022 (the average; the preset ``cr_mogm``); the rest are habits of published code.
    Departures  A fixed average, where the paper's theory lets it grow as the learning rate falls. Reused weights keep
                the cut of the step that found them. Only for methods that weigh task gradients.
    Properties  none

    >>> from mtlfleet import methods
    >>> methods.weights("stabilised", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), use="mgda")
    tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    use: str = "mgda"
    params: Any = None
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    update_every: Annotated[int, Ge(1)] = 1
    log_losses: bool = False
    max_norm: Annotated[float, Gt(0)] | None = None

    presets: ClassVar[dict[str, dict[str, float]]] = {"cr_mogm": {"ema": 0.9}}

    def __post_init__(self) -> None:
        inner = self.inner
        if inner.needs is Needs.ROWS or inner.observes or inner.outer_batches or isinstance(inner, Stabilised):
            raise OutOfDomain(
                f"stabilised: `{self.use}` is no plain weighting of task gradients",
                help="`mtlfleet methods list` shows families: use one of `loss` or `gram`",
            )
        if self.max_norm is not None and inner.needs is Needs.LOSSES:
            raise OutOfDomain(
                f"stabilised: `{self.use}` looks at losses only; to cut its update would need every task's gradient",
                help="use the recipe's clip_norm",
            )

    @property
    def inner(self) -> Method[Any]:
        """The method whose weights are steadied. Raises UnknownName."""
        return _built(self.use, json.dumps(dict(self.params or {}), sort_keys=True))

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return self.inner.needs

    @property
    def heads(self) -> str:  # type: ignore[override]
        return self.inner.heads

    @property
    def weight_sum(self) -> str:  # type: ignore[override]
        return "free" if self.log_losses or self.max_norm is not None else self.inner.weight_sum

    def init(self, tasks: int) -> Smoothed:
        return Smoothed(self.inner.init(tasks), torch.zeros(tasks, dtype=torch.float64), 0)

    def step(self, grads: TaskGradients, state: Smoothed, at: Step) -> tuple[Smoothed, str]:
        """Raises OutOfDomain for a loss that is not positive under ``log_losses``, and what the inner method raises."""
        if state.used % self.update_every:
            grads.apply(Weights(state.weights))
            return Smoothed(state.inner, state.weights, state.used + 1), "reused"
        if self.log_losses and (grads.losses <= 0).any():
            raise OutOfDomain(
                f"stabilised: no logarithm of a loss at step {at.number}: {grads.losses.tolist()}",
                help="shift the loss to be positive",
            )
        listening = Listening(grads, self.log_losses)
        inner, status = self.inner.step(listening, state.inner, at)
        found = listening.weights
        assert found is not None
        if state.used:
            found = self.ema * state.weights + (1.0 - self.ema) * found
        if self.max_norm is not None:
            found = as_weights(clip(as_array(found), as_array(grads.gram()), self.max_norm))
        grads.apply(Weights(found))
        if listening.own is not None:
            if self.update_every > 1:
                raise OutOfDomain(
                    f"stabilised: `{self.use}` scales task parameters' gradients; a reused step has them in one",
                    help="set update_every: 1",
                )
            grads.scale_own(listening.own)
        return Smoothed(inner, found, state.used + 1), status

    def report(self, state: Smoothed) -> Mapping[str, Tensor]:
        return self.inner.report(state.inner)

    def pack(self, state: Smoothed) -> dict[str, Any]:
        inner = self.inner.pack(state.inner) or {}
        return {**{f"inner.{k}": v for k, v in inner.items()}, "weights": state.weights, "used": state.used}

    def unpack(self, packed: dict[str, Any] | None, tasks: int) -> Smoothed:
        if packed is None:
            return self.init(tasks)
        inner = {k.removeprefix("inner."): v for k, v in packed.items() if k.startswith("inner.")}
        return Smoothed(self.inner.unpack(inner or None, tasks), packed["weights"], packed["used"])
