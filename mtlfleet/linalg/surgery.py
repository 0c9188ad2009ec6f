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
    tasks = len(gram)
    rows = np.arange(tasks)
    size = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    coefficients, products, seen = np.eye(tasks), gram.copy(), np.zeros_like(gram)
    for met in order.T:
        own = np.sqrt(np.maximum((coefficients * products).sum(axis=1), 0.0))
        scale = own * size[met]
        cosine = np.divide(products[rows, met], scale, out=np.zeros(tasks), where=scale > 0).clip(-1.0, 1.0)
        wanted = target[rows, met]
        sine, wanted_sine = np.sqrt(1.0 - cosine**2), np.sqrt(1.0 - wanted**2)
        part = own * (wanted * sine - cosine * wanted_sine)
        low = (cosine < wanted) & (scale > 0)
        added = np.divide(part, size[met] * wanted_sine, out=np.zeros(tasks), where=low)
        coefficients[rows, met] += added
        products += added[:, None] * gram[met]
        seen[rows, met] = cosine
    return coefficients, seen
