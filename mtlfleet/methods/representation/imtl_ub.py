from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt

from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import (
    Decision,
    Gram,
    Losses,
    RepresentationWeighting,
    Step,
    TaskGradients,
    Weights,
    method,
)
from mtlfleet.methods.domain import refuse_negative
from mtlfleet.methods.impartial import impartial_weights, ridged_weights
from mtlfleet.methods.private import Private


@method("imtl_ub")
@dataclass(frozen=True, slots=True, kw_only=True)
class IMTLUpperBound(RepresentationWeighting[Private]):
    r"""Losses brought to one scale, then weights whose combination projects equally onto all gradients at Z.

    ``scale_losses``: with the loss half; without, only gradients are balanced (``imtl_g`` at the representation).
    ``lr_s``: learning rate of the scales s in an Adam of their own, without weight decay. ``sign_guard``: as for
    ``imtl_g``. ``solver``: ``exact``, or ``kurin`` for the linear system of that code, which differs from the paper's.
    ``convention``: samples side by side (``concat``) or summed first (``batch_sum``).

    Math        :math:`\alpha_k = e^{s_k} w_k` with :math:`\sum_k w_k = 1` and equal projections of :math:`\sum_k w_k
                z_k` onto all :math:`z_k = e^{s_k} \nabla_Z \ell_k`; s descends on :math:`\sum_k e^{s_k} \ell_k - s_k`;
                task parameters get :math:`e^{s_k} \nabla \ell_k`.
    Shapes      gram ``[K, K]`` of gradients ``[B, ...]`` at Z, losses ``[K]`` -> weights ``[K]``; state: s ``[K]`` and
                its Adam moments.
    Source      Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021 (gradients of the shared feature); Kurin et
                al., In Defense of the Unitary Scalarization for Deep Multi-Task Learning, NeurIPS 2022 (the preset).
    Departures  A negative loss is refused under ``scale_losses``. Solver and words as in ``imtl_g``.
                ``imtl_ub@kurin``: ridge 1e-6, zero gradients stop the trunk, scales at their model's learning rate on
                CelebA and Cityscapes, 5e-4.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("imtl_ub", torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    tensor([0.5923, 0.4077], dtype=torch.float64)
    """

    scale_losses: bool = True
    lr_s: Annotated[float, Gt(0)] = 0.025
    sign_guard: Literal["none", "flip", "fallback_mean"] = "none"
    solver: Literal["exact", "kurin"] = "exact"
    convention: Literal["concat", "batch_sum"] = "concat"

    presets: ClassVar[dict[str, dict[str, Any]]] = {"kurin": {"solver": "kurin", "lr_s": 5e-4}}

    def init(self, tasks: int) -> Private:
        return Private.start(torch.zeros(tasks, dtype=torch.float64))

    def step(self, grads: TaskGradients, state: Private, at: Step) -> tuple[Private, str]:
        """As its family, with task parameters on the scaled losses."""
        decision = self.weigh(grads.representation.gram(self.convention), grads.losses, state, at)
        grads.representation.apply(decision.weights, Weights(torch.exp(state.value)))
        return decision.state, decision.status

    def weigh(self, gram: Gram, losses: Losses, state: Private, at: Step) -> Decision:
        """Weights of the present s; the next state has s moved. Raises OutOfDomain for a negative loss."""
        scale = torch.exp(state.value)
        g = as_array(gram) * as_array(scale[:, None] * scale[None, :])
        found, status = ridged_weights(g) if self.solver == "kurin" else impartial_weights(g, self.sign_guard)
        after = state
        if self.scale_losses:
            refuse_negative("imtl_ub", losses, at, "its scale has no bound")
            after = state.descend(scale * losses - 1.0, self.lr_s)
        return Decision(as_weights(found * as_array(scale)), after, status)
