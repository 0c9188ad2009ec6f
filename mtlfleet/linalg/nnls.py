"""Non-negative least squares, the one problem that projections on cones and simplices come down to."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from mtlfleet.linalg.gram import Array

ROUNDING = 1e-13
"""Slopes smaller than this, per unit column and target, are rounding: no reason to let a variable in."""


def nonnegative_least_squares(matrix: Array, target: Array) -> Array:
    """argmin_{u >= 0} |A u - b| for A [m, K], b [m]: Lawson and Hanson's active set.

    scipy's answer is taken if it satisfies the optimality conditions. It may not where columns are dependent or where
    the products of columns and target are rounding (orthogonal gradients): there our own, slower one decides.
    """
    try:
        found = nnls(matrix, target)[0]
    except RuntimeError:  # it went round in circles
        return _active_set(matrix, target)
    slope = matrix.T @ (matrix @ found - target)
    slack = _slack(matrix, target) * (1.0 + found.max(initial=0.0))
    optimal = slope.min(initial=0.0) >= -10 * slack and np.abs(found * slope).max(initial=0.0) <= 10 * slack
    return found if optimal else _active_set(matrix, target)


def _slack(matrix: Array, target: Array) -> float:
    """What counts as a zero slope."""
    columns = float(np.sqrt(np.square(matrix).sum(axis=0).max(initial=0.0)))
    return ROUNDING * columns * (columns + float(np.linalg.norm(target)))


def _active_set(matrix: Array, target: Array) -> Array:
    """Lawson and Hanson's method with a tolerance, and a least-norm solve that dependent columns cannot upset."""
    found = np.zeros(matrix.shape[1])
    passive = np.zeros(matrix.shape[1], dtype=bool)
    slack = _slack(matrix, target)
    for _ in range(10 * matrix.shape[1]):
        descent = np.where(passive, -np.inf, matrix.T @ (target - matrix @ found))
        if descent.max(initial=0.0) <= slack:
            break
        passive[int(np.argmax(descent))] = True
        while passive.any():
            trial = np.zeros_like(found)
            trial[passive] = np.linalg.lstsq(matrix[:, passive], target, rcond=1e-12)[0]
            falling = passive & (trial <= 0)
            if not falling.any():
                found = trial
                break
            ratio = np.full_like(found, np.inf)
            ratio[falling] = found[falling] / (found[falling] - trial[falling] + np.finfo(np.float64).tiny)
            found = found + min(float(ratio.min()), 1.0) * (trial - found)
            passive &= ~(falling & (ratio <= ratio.min()))
            found[~passive] = 0.0
    return found
