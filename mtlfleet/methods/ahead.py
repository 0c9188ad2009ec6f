"""What a bilevel method may ask before a step: how its losses change along the gradient of another batch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class LookAhead(Protocol):
    """Served by the trainer to methods that declare ``outer_batches``; equal on every rank."""

    @property
    def rate(self) -> float:
        """The learning rate of the step to come."""
        ...

    def slopes(self, weights: Tensor, primary: Tensor, reach: float) -> Tensor | None:
        """[K] float64: (l_k(x + e v) - l_k(x - e v)) / 2e, l the losses of the step's batch at the parameters x.

        v is the gradient of ``primary`` [K] @ losses of the outer batch, taken where the optimizer would be after a
        step on ``weights`` [K] @ losses of the step's batch; e = ``reach`` / |v|. None where v is zero, or where any of
        these numbers is not finite.
        """
        ...


@dataclass(frozen=True)
class LinearAhead:
    """Losses that are linear in the parameters, with gradients [K, P], the same in every batch: slopes are G primary.

    For trying a method out on a Jacobian, where the answer is known in closed form.
    """

    jacobian: Tensor
    rate: float = 0.1

    def slopes(self, weights: Tensor, primary: Tensor, reach: float) -> Tensor | None:  # noqa: ARG002
        rows = self.jacobian.double()
        v = primary.double() @ rows
        return rows @ v if v.any() else None
