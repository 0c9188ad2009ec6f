"""Nash bargaining over task gradients: the minimum of a quadratic with a logarithmic barrier."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array

LARGEST = 1e4
"""Where |b| is cut: two unit gradients that cancel to a part in 1e8 reach it."""


def bargain(cosines: Array, *, iterations: int = 200) -> tuple[Array, bool]:
    r"""The b > 0 with :math:`b_k (H b)_k = 1`, and whether it was reached within ``LARGEST``.

    Minimises :math:`\tfrac12 b^T H b - \sum_k \ln b_k` by Newton's method in the variables b itself scales:
    :math:`(\mathrm{diag}(b) H \mathrm{diag}(b) + I)\,\delta = 1 - b \circ (H b)`, whose eigenvalues are at least 1.
    The function is self-concordant: the step 1 / (1 + decrement) keeps b positive and always descends; below 0.25
    full steps converge quadratically. No solution exists iff some a >= 0, a != 0 has H a = 0 (Pareto stationary): b
    then grows and is cut.

    cosines [K, K], unit diagonal -> (b [K], True) or (b with |b| = 1e4, False).
    """
    tasks = len(cosines)
    b = np.full(tasks, np.sqrt(tasks / max(float(cosines.sum()), 1.0)))
    identity = np.eye(tasks)
    previous = np.inf
    for _ in range(iterations):
        missing = 1.0 - b * (cosines @ b)
        residual = float(np.abs(missing).max())
        if residual <= 1e-14 or (residual <= 1e-9 and residual >= previous):
            break
        previous = residual
        move = np.linalg.solve(b[:, None] * cosines * b[None, :] + identity, missing)
        decrement = float(np.sqrt(max(missing @ move, 0.0)))
        b = b * (1.0 + move / (1.0 + decrement if decrement >= 0.25 else 1.0))
        if np.linalg.norm(b) > LARGEST:
            return b * (LARGEST / np.linalg.norm(b)), False
    return b, True
