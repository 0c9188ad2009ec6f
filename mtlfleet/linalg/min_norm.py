"""The shortest convex combination of K vectors, from their Gram matrix."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, corner, factor, normalised, norms, unit
from mtlfleet.linalg.nnls import nonnegative_least_squares


def min_norm_point(gram: Array) -> Array:
    r"""argmin over the simplex of w^T G w, to rounding.

    :math:`\min_{v \ge 0} |R^T v|^2 + (e^T v - 1)^2` with R R^T = H (unit rows), e_k = 1/n_k up to scale, has a
    minimiser parallel to n w. Working on unit rows keeps norm ratios of 1e4 (1e8 in the Gram) from eating the digits.
    The support found is then solved once more as an equation. A zero row is the shortest point itself: the first one
    gets all weight.

    gram [K, K] -> weights [K], summing to 1.
    """
    size = norms(gram)
    if not size.all():
        return corner(len(size), int(np.argmin(size)))
    cosines = unit(gram, size)
    pull = size.min() / size
    system = np.vstack([factor(cosines).T, pull])
    target = np.zeros(len(size) + 1)
    target[-1] = 1.0
    v = _sharpened(nonnegative_least_squares(system, target), cosines, pull)
    return normalised(v / size)


def _sharpened(v: Array, cosines: Array, pull: Array) -> Array:
    """v scaled to pull @ v = 1, and replaced by the exact solution on its support where that is better."""
    v = v / (pull @ v)
    support = np.flatnonzero(v)
    try:
        y = np.linalg.solve(cosines[support[:, None], support], pull[support])
    except np.linalg.LinAlgError:
        return v
    if not np.isfinite(y).all() or (y <= 0).any():
        return v
    exact = np.zeros_like(v)
    exact[support] = y / (pull[support] @ y)
    return exact if _gap(exact, cosines, pull) <= _gap(v, cosines, pull) else v


def _gap(v: Array, cosines: Array, pull: Array) -> float:
    """How far v (pull @ v = 1) is from satisfying the optimality conditions."""
    slope = cosines @ v
    excess = slope - (v @ slope) * pull
    return float(max(-excess.min(), np.abs(excess * (v > 0)).max()))


def frank_wolfe(gram: Array, *, tolerance: float = 1e-3, iterations: int = 100) -> Array:
    """The same problem by Frank-Wolfe with exact line search from the uniform point, as published baselines run it.

    Stops when a step is shorter than ``tolerance``: weights are off by about that much.
    """
    tasks = len(gram)
    weights = np.full(tasks, 1.0 / tasks)
    for _ in range(iterations):
        slope = gram @ weights
        best = int(np.argmin(slope))
        own, cross, here = gram[best, best], slope[best], weights @ slope
        if cross >= here:
            break
        step = 1.0 if cross >= own else (here - cross) / (here + own - 2.0 * cross)
        weights = (1.0 - step) * weights
        weights[best] += step
        if step < tolerance:
            break
    return weights
