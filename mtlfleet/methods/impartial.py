"""The combination of gradients that projects equally onto every one of them, and what to do where it points uphill."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, norms, unit
from mtlfleet.linalg.spectrum import equal_projections

RIDGE = 1e-6  # of Kurin et al., on the diagonal of their system


def impartial_weights(g: Array, sign_guard: str) -> tuple[Array, str]:
    """Weights [K] that sum to one, from the Gram [K, K]; zero gradients are left out. And the solver's word."""
    alive = np.flatnonzero(norms(g))
    weights = np.zeros(len(g))
    if not len(alive):
        return weights, "stationary"
    weights[alive], status = _solve(g[np.ix_(alive, alive)], sign_guard)
    if status == "ok" and len(alive) < len(g):
        status = "zero_gradient"
    return weights, status


def _solve(g: Array, sign_guard: str) -> tuple[Array, str]:
    found, independent = equal_projections(g)
    total = float(found.sum())
    if abs(total) <= 1e-12 * float(np.abs(found).sum()):
        return np.zeros(len(g)), "stationary"
    if total < 0 and sign_guard == "fallback_mean":
        return np.full(len(g), 1.0 / len(g)), "uphill"
    weights = found / (-total if total < 0 and sign_guard == "flip" else total)
    return weights, "uphill" if total < 0 else "ok" if independent else "rank_deficient"


def ridged_weights(g: Array) -> tuple[Array, str]:
    r"""The weights [K] of Kurin et al.'s code: :math:`(A + 10^{-6} I)\, \alpha_{2:} = b` with :math:`A_{ij} = (g_1 -
    g_i)(u_1 - u_j)`, :math:`b_i = (u_1 - u_i) g_1`, :math:`\alpha_1 = 1 - \sum \alpha_{2:}`.

    The paper's system has the transpose of A, which is the same for two tasks only: with more of them these weights do
    not project equally. A zero gradient (``stationary``) or a singular A (``rank_deficient``) gives no update.
    """
    size = norms(g)
    if not size.all():
        return np.zeros(len(g)), "stationary"
    beside = g / size[None, :]  # [i, j]: g_i u_j
    system = beside[0, 0] - beside[0, 1:][None, :] - beside[1:, 0][:, None] + beside[1:, 1:]
    right = beside[0, 0] - beside[0, 1:]
    try:
        rest = np.linalg.solve(system + RIDGE * np.eye(len(g) - 1), right)
    except np.linalg.LinAlgError:
        return np.zeros(len(g)), "rank_deficient"
    weights = np.concatenate([[1.0 - rest.sum()], rest])
    cosines = unit(g, size)
    return weights, "uphill" if (cosines @ (weights * size) < 0).all() else "ok"
