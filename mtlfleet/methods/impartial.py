"""The combination of gradients that projects equally onto every one of them, and what to do where it points uphill."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, norms
from mtlfleet.linalg.spectrum import equal_projections


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
