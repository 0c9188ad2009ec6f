from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.domain import floored


@method("uw_so")
@dataclass(frozen=True, slots=True, kw_only=True)
class SoftOptimalUncertainty(LossWeighting[None]):
    r"""Uncertainty weighting with its optimum in closed form, softened by a temperature.

    ``temperature``: to be tuned; larger is closer to equal weights. ``scale``: weights sum to one (``sum_one``) or to K
    (``sum_k``). ``eps``: losses below it count as it.

    Math        :math:`\alpha = \mathrm{softmax}(1 / (\ell\, T))`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: none.
    Source      Kirchdorfer et al., Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning, GCPR 2024.
    Departures  A loss at the floor is reported as ``loss_at_floor``, one below -eps is refused.
    Properties  permutation, sum_to_one

    >>> from mtlfleet import methods
    >>> methods.weights("uw_so", torch.eye(2), torch.tensor([1.0, 4.0]))
    tensor([0.6792, 0.3208], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "one"

    temperature: Annotated[float, Gt(0)] = 1.0
    scale: Literal["sum_one", "sum_k"] = "sum_one"
    eps: Annotated[float, Gt(0)] = 1e-8

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain for a negative loss."""
        positive, status = floored("uw_so", losses, at, self.eps)
        found = torch.softmax(1.0 / (positive * self.temperature), dim=0)
        return Decision(Weights(found * (len(losses) if self.scale == "sum_k" else 1)), None, status)
