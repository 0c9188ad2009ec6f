from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtlfleet.linalg.gram import Array, norms
from mtlfleet.linalg.spectrum import equal_projections
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


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

    sign_guard: Literal["none", "flip", "fallback_mean"] = "none"

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        g = as_array(gram)
        alive = np.flatnonzero(norms(g))
        weights = np.zeros(len(g))
        if not len(alive):
            return Decision(as_weights(weights), None, "stationary")
        weights[alive], status = self._solve(g[np.ix_(alive, alive)])
        if status == "ok" and len(alive) < len(g):
            status = "zero_gradient"
        return Decision(as_weights(weights), None, status)

    def _solve(self, g: Array) -> tuple[Array, str]:
        found, independent = equal_projections(g)
        total = float(found.sum())
        if abs(total) <= 1e-12 * float(np.abs(found).sum()):
            return np.zeros(len(g)), "stationary"
        if total < 0 and self.sign_guard == "fallback_mean":
            return np.full(len(g), 1.0 / len(g)), "uphill"
        weights = found / (-total if total < 0 and self.sign_guard == "flip" else total)
        return weights, "uphill" if total < 0 else "ok" if independent else "rank_deficient"
