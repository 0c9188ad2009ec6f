"""The balancing methods, one file each, in folders that tell the price; and two functions to try one on a Jacobian."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from mtlfleet import registry
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods.ahead import LinearAhead
from mtlfleet.methods.base import Method, Step

__all__ = ["build", "combine", "names", "weights"]


def names() -> list[str]:
    """All registered methods, sorted.

    >>> "cagrad" in names()
    True
    """
    return list(registry.builtin("method"))


def build(name: str, **params: Any) -> Method[Any]:
    """A method by name or ``name@preset``. Raises UnknownName with the nearest name."""
    return cast("Method[Any]", registry.build("method", name, **params))


def _stepped(found: Method[Any], jacobian: Tensor, losses: Tensor | None, seed: int) -> DenseGradients:
    """The gradients after one step from a fresh state, on batches that are all the same."""
    grads = DenseGradients(jacobian, losses, earlier=[jacobian] * (found.batches - 1))
    state, at = found.init(jacobian.shape[0]), Step(seed=seed)
    if found.outer_batches:
        state = found.look_ahead(LinearAhead(jacobian), state, at)
    found.step(grads, state, at)
    return grads


def combine(name: str, jacobian: Tensor, losses: Tensor | None = None, *, seed: int = 0, **params: Any) -> Tensor:
    """One step of a method from its fresh state: jacobian [K, P] of task gradients -> the shared gradient [P].

    A method that looks at several batches sees this Jacobian in each.

    >>> import torch
    >>> combine("sum", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0., 1.])
    """
    return _stepped(build(name, **params), jacobian, losses, seed).direction()


def weights(name: str, jacobian: Tensor, losses: Tensor | None = None, *, seed: int = 0, **params: Any) -> Tensor:
    """The task weights [K], float64, that a method chooses in one step from its fresh state.

    Raises TypeError for methods whose update is not a weighting of the task gradients.
    """
    grads = _stepped(build(name, **params), jacobian, losses, seed)
    if grads.weights is None:
        raise TypeError(f"{name} works on single coordinates: its update is not a weighting of the task gradients")
    return grads.weights
