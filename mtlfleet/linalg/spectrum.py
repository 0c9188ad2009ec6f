"""Answers read off the eigenvalues of the Gram: equal projections, and rows made orthogonal."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, norms, unit

RANK = 1e-10
"""Eigenvalues below this part of the largest count as zero in the pseudo-inverse."""


def equal_projections(gram: Array) -> tuple[Array, bool]:
    """v with J^T v projecting equally on all unit rows: G v = n, and whether the rows were independent.

    Independent rows are solved on unit rows (exact at any norm ratio); else the least-squares v of least norm, G^+ n,
    which projects equally whenever any combination does. No zero rows allowed.
    """
    size = norms(gram)
    cosines = unit(gram, size)
    values = np.linalg.eigvalsh(cosines)
    if values[0] > RANK * values[-1]:
        solution: Array = np.linalg.solve(cosines, np.ones(len(size))) / size
        return solution, True
    scale = float(np.diagonal(gram).max())
    pseudo: Array = np.linalg.pinv(gram / scale, rcond=RANK, hermitian=True) @ (size / scale)
    return pseudo, False


def preferred_direction(gram: Array, preference: Array) -> tuple[Array, str]:
    r"""Weights of the direction whose cosines with all rows go by p, as long as the rows reach along it; and a word.

    With H the cosines: :math:`x = H^{+} p`, :math:`q = \sqrt{x^T H x}`, length :math:`\Lambda = \sum_k n_k (H x)_k /
    q`, :math:`\alpha_k = \Lambda x_k / (n_k q)`. Zero rows are left out (``zero_gradient``), dependent ones take the
    least squares (``rank_deficient``); rows that cancel give no direction (``stationary``).
    """
    size = norms(gram)
    alive = np.flatnonzero(size)
    weights = np.zeros(len(size))
    if not len(alive):
        return weights, "stationary"
    cosines, wanted = unit(gram, size)[np.ix_(alive, alive)], preference[alive]
    values = np.linalg.eigvalsh(cosines)
    independent = bool(values[0] > RANK * values[-1])
    if independent:
        x = np.linalg.solve(cosines, wanted)
    else:
        x = np.linalg.pinv(cosines, rcond=RANK, hermitian=True) @ wanted
    reach = cosines @ x
    q = float(np.sqrt(max(float(x @ reach), 0.0)))
    if q <= 1e-9 * float(np.abs(x).sum()) or q <= 1e-9 * float(np.abs(wanted).sum()):
        return weights, "stationary"
    weights[alive] = float(size[alive] @ reach) / q * x / (size[alive] * q)
    return weights, "rank_deficient" if not independent else "ok" if len(alive) == len(size) else "zero_gradient"


def align(gram: Array, mode: str, tolerance: float) -> tuple[Array, int]:
    r"""B [K, K] with B J having all its non-zero singular values equal, and the rank that was kept.

    With G = V diag(l) V^T and the r eigenvalues above l_max K tolerance: :math:`B = \sqrt{s}\, V_r l_r^{-1/2} V_r^T`,
    where s is the smallest, (lower) median or mean kept eigenvalue (``min``, ``median``, ``rmse``). Rank 0 gives B = I.
    """
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * len(values) * tolerance
    if values[-1] <= 0 or not kept.any():
        return np.eye(len(values)), 0
    values, vectors = values[kept], vectors[:, kept]
    scale = {"min": values[0], "median": values[(len(values) - 1) // 2], "rmse": float(values.mean())}[mode]
    balance: Array = (vectors * np.sqrt(scale / values)) @ vectors.T
    return balance, len(values)
