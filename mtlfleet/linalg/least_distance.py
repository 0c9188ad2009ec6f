"""The nearest point of an intersection of half-spaces, in the coordinates of the Gram."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, factor, norms, unit
from mtlfleet.linalg.nnls import nonnegative_least_squares

FEASIBLE = 1e-8  # of a unit target: a smaller rest means that no point satisfies the constraints


def lift(gram: Array, right: Array) -> Array | None:
    r"""mu [K] >= 0 with :math:`x = \sum_k \mu_k g_k` the shortest x that has :math:`g_k x \ge b_k` for all k.

    Least distance programming (Lawson and Hanson, Solving Least Squares Problems, 1974, ch. 23): one problem of
    non-negative least squares with the rows beside b, on unit rows. None when no x satisfies all constraints; rows of
    length zero bind nobody.

    gram [K, K], right [K] = b.
    """
    size = norms(gram)
    needed = np.flatnonzero(size > 0)
    found = np.zeros(len(size))
    wanted = right[needed] / size[needed]
    reach = float(np.abs(wanted).max(initial=0.0))
    if not (wanted > 0).any():
        return found
    rows = factor(unit(gram, size)[np.ix_(needed, needed)])
    system = np.vstack([rows.T, wanted / reach])
    target = np.zeros(len(system))
    target[-1] = 1.0
    u = nonnegative_least_squares(system, target)
    rest = 1.0 - float(system[-1] @ u)
    if rest <= FEASIBLE:
        return None
    found[needed] = reach * u / (rest * size[needed])
    return found
