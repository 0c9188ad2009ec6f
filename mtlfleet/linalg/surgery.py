"""Changing gradients one against the other, in order, in the coordinates of the Gram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtlfleet.linalg.gram import Array, norms, unit


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
    rows, size = np.arange(tasks), norms(gram)
    cosines = unit(gram, size)
    wanted = target[rows, met]
    # Of unit rows, with p the product with the one met: so much of it, n t sqrt(1 - phi^2) - p, is positive just where
    # phi is too low. What does not change from meeting to meeting is looked up once, [m, K].
    tangents = np.where(size[met] > 0, wanted / np.sqrt(1.0 - wanted**2), 0.0)
    places = rows * tasks + met
    seen, lengths, added = np.empty(met.shape), np.empty(met.shape), np.empty(met.shape)
    products, squares = cosines.copy(), np.diagonal(cosines).copy()  # of the rows as they are now
    flat, beside = products.reshape(-1), np.empty_like(cosines)
    for turn, others in enumerate(met):
        product = flat.take(places[turn], out=seen[turn], mode="clip")
        lengths[turn] = squares
        apart = np.sqrt(np.maximum(squares - product * product, 0.0))
        more = np.maximum(tangents[turn] * apart - product, 0.0, out=added[turn])
        squares += more * (2.0 * product + more)
        products += np.multiply(more[:, None], cosines.take(others, axis=0, out=beside, mode="clip"), out=beside)
    np.divide(seen, np.sqrt(np.maximum(lengths, 0.0)), out=seen, where=lengths > 0)
    coefficients, found = np.eye(tasks), np.zeros_like(gram)
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    np.add.at(coefficients, (rows, met), added * size * inverse[met])
    found[rows, met] = np.clip(seen, -1.0, 1.0)
    return coefficients, found
