"""Two conventions laid over a method, whatever its own are: how long its update is, and what task parameters see.

Sources disagree on both silently, and either alone can decide a comparison: a scale is a learning rate, and heads that
see their weight train at another rate than those that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from mtlfleet.methods.ahead import LookAhead
from mtlfleet.methods.base import Gram, Losses, Method, Needs, OutOfDomain, Step, TaskGradients, Weights

NORMS = ("unit_norm", "match_sum_norm")


def under(method: Method[Any], heads: str = "", scale: str = "") -> Method[Any]:
    r"""``method`` with another head policy, another scale, or both; empty leaves its own.

    ``heads``: ``"weighted"`` multiplies the gradient of each task's own parameters with its weight, ``"unweighted"``
    does not. ``scale``, for weights :math:`\alpha` and :math:`\|d\| = \sqrt{\alpha^T G \alpha}`: ``"sum_k"`` times
    :math:`K / \sum \alpha`; ``"unit_norm"`` times :math:`1 / \|d\|`; ``"match_sum_norm"`` times
    :math:`\sqrt{1^T G 1} / \|d\|`, the step length of a plain sum. All come after what the method does itself, its own
    cut of the norm included; weighted heads see the scaled weights. A step that cannot be scaled (no positive sum, no
    length) is left as it is and reported as ``unscaled``. Raises OutOfDomain where a convention has no meaning.
    """
    if not heads and scale in ("", "native"):
        return method
    _refuse(method, heads, scale)
    return _Under(method, heads, scale)


def _refuse(method: Method[Any], heads: str, scale: str) -> None:
    scaled = scale not in ("", "native")
    why = ""
    if method.owns_update:
        why = "its update is the optimizer's own"
    elif method.weight_sum == "none" and (scaled or heads == "weighted"):
        why = "its update is no weighting of tasks"
    elif scaled and (method.own_optimizers or method.turns(2) > 1):
        why = "it takes several optimizer steps a batch, each with tasks of its own"
    elif scale in NORMS and method.needs is Needs.LOSSES:
        why = "it looks at losses only, and a norm would need every task's gradient"
    elif scale in NORMS and method.needs is Needs.REPRESENTATION:
        why = "it weighs at the representation, where the norm of the shared gradient is not known"
    if why:
        asked = ", ".join(f"{name}: {value}" for name, value in (("heads", heads), ("scale", scale)) if value)
        raise OutOfDomain(f"{method.name}: `{asked}` has no meaning: {why}", help="leave it out for this method")


class _Under(Method[Any]):
    """A method's traits and words, with its heads and its weights changed."""

    def __init__(self, inner: Method[Any], heads: str, scale: str) -> None:
        for trait in Method.__annotations__:
            setattr(self, trait, getattr(inner, trait))
        self.inner, self.scale, self.forced = inner, scale or "native", bool(heads)
        changed = {"heads": heads} if heads else {}
        if self.scale != "native":
            changed["weight_sum"] = "tasks" if scale == "sum_k" else "free"
        for trait, value in changed.items():
            setattr(self, trait, value)

    def step(self, grads: TaskGradients, state: Any, at: Step) -> tuple[Any, str]:
        seen = _Seen(grads, self)
        state, status = self.inner.step(cast("TaskGradients", seen), state, at)
        return state, status if seen.scaled else "unscaled"

    def init(self, tasks: int) -> Any:
        return self.inner.init(tasks)

    def turns(self, tasks: int) -> int:
        return self.inner.turns(tasks)

    def look_ahead(self, ahead: LookAhead, state: Any, at: Step) -> Any:
        return self.inner.look_ahead(ahead, state, at)

    def observe(self, before: Losses, after: Losses, state: Any, at: Step) -> Any:
        return self.inner.observe(before, after, state, at)

    def report(self, state: Any) -> Mapping[str, Tensor]:
        return self.inner.report(state)

    def pack(self, state: Any) -> dict[str, Any] | None:
        return self.inner.pack(state)

    def unpack(self, packed: dict[str, Any] | None, tasks: int) -> Any:
        return self.inner.unpack(packed, tasks)

    def refuse(self, why: str) -> OutOfDomain:
        return OutOfDomain(
            f"{self.name}: `heads: {self.heads}, scale: {self.scale}` has no meaning: {why}",
            help="leave heads and scale out for this method",
        )


class _Seen:
    """TaskGradients, or gradients at the representation, whose weights are scaled on their way."""

    def __init__(self, grads: Any, asked: _Under) -> None:
        self._grads, self._asked = grads, asked
        self.scaled = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grads, name)

    @property
    def representation(self) -> _Seen:
        return _Inner(self._grads.representation, self)

    def apply(self, weights: Weights, *own: Weights | None) -> None:
        self._apply(self._grads.apply, weights, *own)

    def apply_mean(self, weights: Weights) -> None:
        if self._asked.scale in NORMS:
            raise self._asked.refuse("the update is the mean over several batches, whose norm is not known")
        self._apply(self._grads.apply_mean, weights)

    def _apply(self, applied: Callable[..., None], weights: Weights, *own: Weights | None) -> None:
        if own and own[0] is not None and self._asked.forced:
            raise self._asked.refuse("it says itself what the gradients of task parameters are multiplied by")
        factor = self._factor(weights.detach().to(torch.float64))
        self.scaled = factor is not None
        applied(weights if factor is None else Weights(weights * factor), *own)

    def _factor(self, weights: Tensor) -> float | None:
        if self._asked.scale == "native":
            return 1.0
        if self._asked.scale == "sum_k":
            total = float(weights.sum())
            return len(weights) / total if total > 0 else None
        gram: Gram = self._grads.gram()
        length = float((weights @ gram @ weights).clamp_min(0).sqrt())
        wanted = 1.0 if self._asked.scale == "unit_norm" else float(gram.sum().clamp_min(0).sqrt())
        return wanted / length if length > 0 else None

    def scale_own(self, factors: Weights) -> None:
        if self._asked.forced:
            raise self._asked.refuse("it says itself what the gradients of task parameters are multiplied by")
        self._grads.scale_own(factors)

    def apply_grouped(self, *_: Any) -> None:
        raise self._asked.refuse("it has one weight per task and group of parameters")

    def write(self, direction: Tensor) -> None:
        if self._asked.scale != "native" or self._asked.heads == "weighted":
            raise self._asked.refuse("it makes the update itself")
        self._grads.write(direction)


class _Inner(_Seen):
    """Gradients at the representation: what is scaled there is told to the step's."""

    def __init__(self, at: Any, step: _Seen) -> None:
        super().__init__(at, step._asked)
        self._step = step

    def _apply(self, applied: Callable[..., None], weights: Weights, *own: Weights | None) -> None:
        super()._apply(applied, weights, *own)
        self._step.scaled = self.scaled
