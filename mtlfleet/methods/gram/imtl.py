from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt

from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method
from mtlfleet.methods.domain import refuse_negative
from mtlfleet.methods.impartial import impartial_weights
from mtlfleet.methods.private import Private


@method("imtl")
@dataclass(frozen=True, slots=True, kw_only=True)
class IMTL(GramWeighting[Private]):
    r"""Losses brought to one scale, then weights whose combined gradient projects equally onto every task gradient.

    ``lr_s``: learning rate of the scales s in an Adam of their own, without weight decay. ``sign_guard``: where the
    solution points uphill for all tasks, ``none`` keeps it, ``flip`` takes its negative, ``fallback_mean`` the mean.

    Math        ``imtl_l``'s scales :math:`e^{s_k}`, then ``imtl_g`` on the scaled gradients: :math:`\alpha_k = e^{s_k}
                w_k`, w from :math:`G_{ij} e^{s_i + s_j}`.
    Shapes      gram ``[K, K]``, losses ``[K]`` -> weights ``[K]``; state: s ``[K]`` and its Adam moments.
    Source      Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021.
    Departures  Task-specific parameters see the plain gradient of their loss, where the paper gives them the scaled
                one. Gradients of shared parameters, where the paper prefers those of the representation. A negative
                loss is refused. Solver and words as in ``imtl_g``.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("imtl", torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    tensor([0.5923, 0.4077], dtype=torch.float64)
    """

    lr_s: Annotated[float, Gt(0)] = 0.025
    sign_guard: Literal["none", "flip", "fallback_mean"] = "none"

    def init(self, tasks: int) -> Private:
        return Private.start(torch.zeros(tasks, dtype=torch.float64))

    def weigh(self, gram: Gram, losses: Losses, state: Private, at: Step) -> Decision:
        """Weights of the present s; the next state has s moved. Raises OutOfDomain for a negative loss."""
        refuse_negative("imtl", losses, at, "its scale has no bound")
        scale = torch.exp(state.value)
        found, status = impartial_weights(as_array(gram) * as_array(scale[:, None] * scale[None, :]), self.sign_guard)
        after = state.descend(scale * losses - 1.0, self.lr_s)
        return Decision(as_weights(found * as_array(scale)), after, status)
