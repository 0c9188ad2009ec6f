"""Changing gradients one against the other, in order, in the coordinates of the Gram."""

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


def raise_cosines(gram: Array, order: NDArray[np.int64], target: Array) -> tuple[Array, Array]:
    r"""Rows after each cosine below its target was raised to it, as combinations of the rows before; the cosines seen.

    Row i meets order[i, 0], order[i, 1], ...; where its present cosine phi with j is below target[i, j], it is given as
    much of g_j as makes them equal: :math:`n_i (\hat\phi \sqrt{1 - \phi^2} - \phi \sqrt{1 - \hat\phi^2}) / (n_j
    \sqrt{1 - \hat\phi^2})`. A zero row meets nobody: its cosines count as zero.

    gram [K, K], order [K, m], target [K, K] inside (-1, 1) -> coefficients [K, K], cosines [K, K] as met.
    """
    tasks, met = len(gram), order.T
    rows, diagonal = np.arange(tasks), np.diagonal(gram)
    size = np.sqrt(np.maximum(diagonal, 0.0))
    # What does not change from meeting to meeting is looked up once, [m, K]; and sums are made at the end.
    sizes, wanted = size[met], target[rows, met]
    sines = np.sqrt(1.0 - wanted**2)
    seen, added = np.zeros(met.shape), np.zeros(met.shape)
    products, squares = gram.copy(), diagonal.copy()  # of the rows as they are now, with those before and themselves
    for turn, others in enumerate(met):
        own = np.sqrt(np.maximum(squares, 0.0))
        scale, product = own * sizes[turn], products[rows, others]
        some = scale > 0
        cosine = np.divide(product, scale, out=seen[turn], where=some)
        np.minimum(np.maximum(cosine, -1.0, out=cosine), 1.0, out=cosine)
        low = (cosine < wanted[turn]) & some
        part = own * (wanted[turn] * np.sqrt(1.0 - cosine * cosine) - cosine * sines[turn])
        more = np.divide(part, sizes[turn] * sines[turn], out=added[turn], where=low)
        squares += more * (2.0 * product + more * diagonal[others])
        products += more[:, None] * gram[others]
    coefficients, cosines = np.eye(tasks), np.zeros_like(gram)
    np.add.at(coefficients, (rows, met), added)
    cosines[rows, met] = seen
    return coefficients, cosines
