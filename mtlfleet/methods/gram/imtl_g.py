from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method
from mtlfleet.methods.impartial import impartial_weights


@method("imtl_g")
@dataclass(frozen=True, slots=True, kw_only=True)
class IMTLG(GramWeighting[None]):
    r"""Weights whose combined gradient projects equally onto every task gradient.

    ``sign_guard``: for three and more tasks the paper's solution can point uphill for all of them at once. ``none``
    keeps it, as every published code does; ``flip`` takes its negative; ``fallback_mean`` takes the mean gradient.

    Math        :math:`v = G^{+} n`, :math:`n_k = \|g_k\|`, :math:`\alpha = v / \sum_k v_k`; then :math:`d g_k / n_k`
                is equal for all k.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none.
    Source      Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021 (the gradient half).
    Departures  Solved on unit gradients in float64, where the paper inverts a difference matrix: the same weights.
                Dependent gradients take the pseudo-inverse (``rank_deficient``), zero ones are left out
                (``zero_gradient``), a sum of weights that vanishes gives no update (``stationary``); an uphill
                solution is reported as ``uphill``.
    Properties  permutation, positive_scaling, common_scaling, sum_to_one

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("imtl_g", torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    tensor([0.5923, 0.4077], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "one"

    sign_guard: Literal["none", "flip", "fallback_mean"] = "none"

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        weights, status = impartial_weights(as_array(gram), self.sign_guard)
        return Decision(as_weights(weights), None, status)
