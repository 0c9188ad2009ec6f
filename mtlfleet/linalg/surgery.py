"""Projecting conflicting gradients off each other one after the other, in the coordinates of the Gram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtlfleet.linalg.gram import Array


def remove_conflicts(gram: Array, order: NDArray[np.int64]) -> Array:
    """Rows after surgery, as combinations of the rows before.

    order [K, m]: row i meets the tasks order[i, 0], order[i, 1], ... ; where its present inner product with one is
    negative, that component is removed. All rows go side by side; a zero gradient removes nothing.

    gram [K, K] -> [K, K]; row i holds the coefficients of the altered g_i.
    """
    tasks = len(gram)
    rows = np.arange(tasks)
    squares = np.diagonal(gram)
    inverse = np.divide(1.0, squares, out=np.zeros(tasks), where=squares > 0)
    coefficients = np.eye(tasks)
    products = gram.copy()
    for met in order.T:
        part = np.minimum(products[rows, met], 0.0) * inverse[met]
        coefficients[rows, met] -= part
        products -= part[:, None] * gram[met]
    return coefficients
