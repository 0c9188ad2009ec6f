from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.domain import floored


@method("gls")
@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricLoss(LossWeighting[None]):
    r"""The geometric mean of the losses: each task's share of it is the same.

    ``eps``: losses below it count as it.

    Math        :math:`L = (\prod_k \ell_k)^{1/K}`, :math:`\alpha_k = L / (K \ell_k)`; the direction of ``si``.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: none.
    Source      Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for
                Multi-Task Learning, CVPR Workshops 2019.
    Departures  exp(mean(log)) instead of a product, which leaves the range of floats at many tasks. A loss at the floor
                is reported as ``loss_at_floor``, one below -eps is refused.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("gls", torch.eye(2), torch.tensor([1.0, 4.0]))
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """

    eps: Annotated[float, Gt(0)] = 1e-20

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain for a negative loss."""
        positive, status = floored("gls", losses, at, self.eps)
        mean = torch.exp(positive.log().mean())
        return Decision(Weights(mean / (len(losses) * positive)), None, status)
