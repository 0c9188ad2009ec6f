"""Non-negative least squares, the one problem that projections on cones and simplices come down to."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from mtlfleet.linalg.gram import Array


def nonnegative_least_squares(matrix: Array, target: Array) -> Array:
    """argmin_{u >= 0} |A u - b| for A [m, K], b [m]: Lawson and Hanson's active set, by scipy.

    Dependent columns can make the active set cycle in rounding. Then a ridge, raised until it settles, breaks the
    tie; its size (1e-14 of the largest column, at first) is below what the Gram's own rounding leaves open.
    """
    columns = matrix.shape[1]
    ridge = 0.0
    while True:
        try:
            if not ridge:
                return nnls(matrix, target, maxiter=10 * columns)[0]
            size = ridge * float(np.abs(matrix).max(initial=1.0))
            padded = np.vstack([matrix, size * np.eye(columns)])
            return nnls(padded, np.concatenate([target, np.zeros(columns)]), maxiter=10 * columns)[0]
        except RuntimeError:
            ridge = max(100.0 * ridge, 1e-14)
            if ridge > 1.0:
                raise
