from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method


@method("si")
@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleInvariant(LossWeighting[None]):
    r"""The sum of logarithms of the losses: units of a loss do not matter.

    ``eps``: the loss below which weights stop growing.

    Math        :math:`L = \sum_k \ln \ell_k`, :math:`\alpha_k = 1 / \ell_k`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: none.
    Source      Baseline of Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.
    Departures  The guard is a floor, :math:`1 / \max(\ell_k, \epsilon)`, not an added constant, so invariance is
                exact above it; a loss at the floor is reported as ``loss_at_floor``, one below -eps is refused.
    Properties  permutation, loss_scaling

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("si", torch.eye(2), torch.tensor([1.0, 4.0]))
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """

    eps: Annotated[float, Gt(0)] = 1e-8

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain for a negative loss, which has no logarithm."""
        if (losses < -self.eps).any():
            raise OutOfDomain(
                f"si: a task's loss is negative at step {at.number}: {losses.tolist()}; it has no logarithm",
                help="shift the loss to be positive, or use `sum` or `linear`",
            )
        status = "loss_at_floor" if (losses < self.eps).any() else "ok"
        return Decision(Weights(1.0 / losses.clamp_min(self.eps)), None, status)
