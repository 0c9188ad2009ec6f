from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method


@method("sum")
@dataclass(frozen=True, slots=True, kw_only=True)
class Sum(LossWeighting[None]):
    r"""The sum of all task losses, every weight one: unitary scalarization.

    Math        :math:`L = \sum_k \ell_k`, :math:`\alpha = 1`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: none.
    Source      Kurin et al., In Defense of the Unitary Scalarization for Deep Multi-Task Learning, NeurIPS 2022.
    Departures  None. The paper's baseline is strong by its regularisation and tuning, which a study gives to every
                method alike.
    Properties  permutation, common_scaling, sum_to_tasks, keeps_agreement

    >>> from mtlfleet import methods
    >>> methods.combine("sum", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0., 1.])
    """

    weight_sum: ClassVar[str] = "tasks"

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        return Decision(Weights(torch.ones(len(losses), dtype=torch.float64)), None)
