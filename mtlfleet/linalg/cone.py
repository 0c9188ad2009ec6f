"""Projection on the dual cone of a set of vectors: the nearest direction that hurts none of them."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, factor, norms, unit
from mtlfleet.linalg.nnls import nonnegative_least_squares


def project_rows(gram: Array) -> Array:
    r"""Each row's projection on {x : g_k x >= 0 for all k}, as combinations of the rows.

    Row i of the result is :math:`\arg\min_{v \ge e_i} v^T G v`; its combination J^T v is the projection of g_i. With
    v = e_i + z this is non-negative least squares in z; unit rows are used inside, so norm ratios do not matter. A
    row in conflict with none, and a zero row, is its own projection.

    gram [K, K] -> [K, K].
    """
    size = norms(gram)
    cosines = unit(gram, size)
    system = factor(cosines).T
    result = np.eye(len(size))
    for i in range(len(size)):
        if size[i] > 0 and (cosines[i] < 0).any():
            z = nonnegative_least_squares(system, -system[:, i]) * size[i]
            result[i] += np.divide(z, size, out=np.zeros_like(z), where=size > 0)
    return result
