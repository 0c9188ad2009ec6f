from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt

from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import (
    Decision,
    Gram,
    GramWeighting,
    Losses,
    Needs,
    Step,
    TaskGradients,
    Weights,
    method,
)
from mtlfleet.methods.domain import refuse_negative
from mtlfleet.methods.impartial import impartial_weights, ridged_weights
from mtlfleet.methods.private import Private


@method("imtl")
@dataclass(frozen=True, slots=True, kw_only=True)
class IMTL(GramWeighting[Private]):
    r"""Losses brought to one scale, then weights whose combined gradient projects equally onto every task gradient.

    ``lr_s``: learning rate of the scales s in an Adam of their own, without weight decay. ``sign_guard``: where the
    solution points uphill for all tasks, ``none`` keeps it, ``flip`` takes its negative, ``fallback_mean`` the mean.
    ``at``: whose gradients are looked at: those of the shared ``parameters``, or of the ``representation`` they make,
    which is ``imtl_ub``. ``solver``: ``exact``, or ``kurin`` for the linear system of that code.

    Math        ``imtl_l``'s scales :math:`e^{s_k}`, then ``imtl_g`` on the scaled gradients: :math:`\alpha_k = e^{s_k}
                w_k`, w from :math:`G_{ij} e^{s_i + s_j}`.
    Shapes      gram ``[K, K]``, losses ``[K]`` -> weights ``[K]``; state: s ``[K]`` and its Adam moments.
    Source      Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021.
    Departures  Gradients of shared parameters, where the paper prefers those of the representation. A negative loss is
                refused. Solver and words as in ``imtl_g``. ``imtl@kurin`` is the code of Kurin et al., NeurIPS 2022:
                ``imtl_ub@kurin`` says what that is.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("imtl", torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    tensor([0.5923, 0.4077], dtype=torch.float64)
    """

    lr_s: Annotated[float, Gt(0)] = 0.025
    sign_guard: Literal["none", "flip", "fallback_mean"] = "none"
    at: Literal["parameters", "representation"] = "parameters"
    solver: Literal["exact", "kurin"] = "exact"

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "kurin": {"at": "representation", "solver": "kurin", "lr_s": 5e-4},
    }

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs.GRAM if self.at == "parameters" else Needs.REPRESENTATION

    def init(self, tasks: int) -> Private:
        return Private.start(torch.zeros(tasks, dtype=torch.float64))

    def step(self, grads: TaskGradients, state: Private, at: Step) -> tuple[Private, str]:
        """Task parameters learn from the scaled losses."""
        scales = Weights(torch.exp(state.value))
        if self.at == "parameters":
            decision = self.weigh(grads.gram(), grads.losses, state, at)
            grads.apply(decision.weights)
            grads.scale_own(scales)
        else:
            decision = self.weigh(grads.representation.gram(), grads.losses, state, at)
            grads.representation.apply(decision.weights, scales)
        return decision.state, decision.status

    def weigh(self, gram: Gram, losses: Losses, state: Private, at: Step) -> Decision:
        """Weights of the present s; the next state has s moved. Raises OutOfDomain for a negative loss."""
        refuse_negative("imtl", losses, at, "its scale has no bound")
        scale = torch.exp(state.value)
        g = as_array(gram) * as_array(scale[:, None] * scale[None, :])
        found, status = ridged_weights(g) if self.solver == "kurin" else impartial_weights(g, self.sign_guard)
        after = state.descend(scale * losses - 1.0, self.lr_s)
        return Decision(as_weights(found * as_array(scale)), after, status)
