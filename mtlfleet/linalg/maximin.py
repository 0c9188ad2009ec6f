"""The point of a ball around the mean gradient that serves the worst-off task best, from the Gram matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtlfleet.linalg.gram import Array, corner, factor, length, normalised, norms, unit
from mtlfleet.linalg.nnls import nonnegative_least_squares

ROUNDS = 50


def worst_case_weights(gram: Array, radius: float) -> Array:
    r"""argmin over the simplex of :math:`g_0 g_w + r |g_0| |g_w|`, where g_w = J^T w and g_0 is the mean of the rows.

    The dual of max over |d - g_0| <= r |g_0| of min_k g_k d. For a level t, the shortest x with g_k (g_0 + r |g_0| x)
    >= t for all k is one non-negative least squares problem (Lawson and Hanson's LDP); t is attainable iff |x| <= 1.
    Its multipliers give the next level from above (Dinkelbach: superlinear), and the support solves the problem in
    closed form once it is right. No interior point: three to five least squares calls reach rounding, at any norm
    ratio.

    gram [K, K] with g_0 != 0, radius > 0 -> weights [K], summing to 1. A zero g_w (first-order stationary) is possible.
    """
    size = norms(gram)
    tasks = len(size)
    if not size.all():
        return _with_zero_row(gram, radius, size)
    cosines = unit(gram, size)
    pull = size.min() / size
    to_mean = gram.mean(axis=1) / size
    to_mean = to_mean / np.sqrt(gram.mean())
    rows = radius * factor(cosines).T
    best = np.zeros(tasks)
    first = int(np.argmin((to_mean + radius) / pull))
    best[first] = 1.0 / pull[first]
    level = (to_mean[first] + radius) / pull[first]
    target = np.zeros(tasks + 1)
    target[-1] = 1.0
    for _ in range(ROUNDS):
        u = nonnegative_least_squares(np.vstack([rows, level * pull - to_mean]), target)
        if not u.any():
            break
        exact = _on_support(np.flatnonzero(u), cosines, pull, to_mean, radius)
        if exact is not None:
            best = exact
            break
        u /= pull @ u
        new = float(to_mean @ u + np.linalg.norm(rows @ u))
        if new >= level - 1e-15 * (1.0 + abs(level)):
            break
        best, level = u, new
    return normalised(best / size)


def _with_zero_row(gram: Array, radius: float, size: Array) -> Array:
    """A zero gradient bounds the worst case at zero: it takes all weight unless the others' worst case is below
    that."""
    alive = np.flatnonzero(size)
    weights = np.zeros(len(size))
    zero = corner(len(size), int(np.argmin(size)))
    if not len(alive):
        return zero
    part = gram[np.ix_(alive, alive)]
    # the mean over all rows is a shorter mean over the live ones: same direction, same radius in units of it
    weights[alive] = worst_case_weights(part, radius)
    value = float(weights @ gram.mean(axis=1)) + radius * float(gram.mean()) ** 0.5 * length(weights, gram)
    return weights if value < 0 else zero


def _on_support(support: NDArray[np.intp], cosines: Array, pull: Array, to_mean: Array, radius: float) -> Array | None:
    """The optimum among combinations of ``support``, by a quadratic in the level; None unless it is optimal among
    all."""
    try:
        solved = np.linalg.solve(
            cosines[support[:, None], support], np.stack([pull[support], to_mean[support]], axis=1)
        )
    except np.linalg.LinAlgError:
        return None
    (a, b), (_, c) = np.stack([pull[support], to_mean[support]]) @ solved
    inside = b * b - a * (c - radius * radius)
    if not (a > 0 and inside > 0):
        return None
    level = (b + np.sqrt(inside)) / a
    part = level * solved[:, 0] - solved[:, 1]
    total = pull[support] @ part
    if not (np.isfinite(part).all() and (part > 0).all() and total > 0):
        return None
    v = np.zeros_like(pull)
    v[support] = part / total
    reach = cosines @ v
    long = max(float(v @ reach), 0.0) ** 0.5
    if long <= 0:
        return None
    excess = to_mean + radius * reach / long - level * pull
    slack = 1e-11 + 1e-13 / long  # a short g_w is a difference of long rows: its direction has their rounding
    return v if np.abs(excess[support]).max() <= slack and excess.min() >= -slack else None
