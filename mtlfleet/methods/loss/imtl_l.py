from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.domain import refuse_negative
from mtlfleet.methods.private import Private


@method("imtl_l")
@dataclass(frozen=True, slots=True, kw_only=True)
class ImpartialLosses(LossWeighting[Private]):
    r"""Learned scales that bring all scaled losses to one.

    ``lr_s``: learning rate of s in an Adam of its own, without weight decay.

    Math        :math:`L = \sum_k (e^{s_k} \ell_k - s_k)`, :math:`\alpha_k = e^{s_k}`; stationary at :math:`e^{s_k}
                \ell_k = 1`. Twice the objective of ``uw`` with the sign of s turned.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: s ``[K]`` and its Adam moments.
    Source      Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021 (the loss half).
    Departures  The paper does not say how s is trained: here by an Adam of its own at ``uw``'s rate. A negative loss is
                refused, as the objective has no minimum there.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("imtl_l", torch.eye(2), torch.tensor([1.0, 4.0]))
    tensor([1., 1.], dtype=torch.float64)
    """

    lr_s: Annotated[float, Gt(0)] = 0.025

    def init(self, tasks: int) -> Private:
        return Private.start(torch.zeros(tasks, dtype=torch.float64))

    def weigh(self, losses: Losses, state: Private, at: Step) -> Decision:
        """Weights of the present s; the next state has s moved. Raises OutOfDomain for a negative loss."""
        refuse_negative("imtl_l", losses, at, "its scale has no bound")
        scale = torch.exp(state.value)
        return Decision(Weights(scale), state.descend(scale * losses - 1.0, self.lr_s))
