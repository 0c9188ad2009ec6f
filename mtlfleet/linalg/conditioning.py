"""Scales that make a set of gradients well conditioned."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, norms, unit

ITERATIONS = 200


def condition(gram: Array) -> float:
    """Largest over smallest eigenvalue; infinite for a Gram without full rank (K roundings of the largest are zero)."""
    values = np.linalg.eigvalsh(gram)
    noise = len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    return float(values[-1] / values[0]) if values[0] > noise else np.inf


def best_scales(gram: Array) -> Array:
    """s [K] > 0 with a small condition number of diag(s) G diag(s), scaled to a geometric mean of one.

    From equal norms, 1 / n_k, along subgradients of log cond: d log(lambda) / d log(s_k) = 2 v_k^2 for an eigenvalue
    with unit vector v. The best point met is returned, so it is never worse than equal norms (which are within a factor
    K of the optimum: van der Sluis, Condition numbers and equilibration of matrices, 1969). No zero rows; for two
    tasks, and for a Gram without full rank, equal norms are the answer.
    """
    length = norms(gram)
    cosines = unit(gram, length)
    tasks = len(gram)
    logs = np.zeros(tasks)
    best, least = logs.copy(), condition(cosines)
    if tasks > 2 and np.isfinite(least):
        for step in range(ITERATIONS):
            scales = np.exp(logs)
            values, vectors = np.linalg.eigh(cosines * scales[:, None] * scales[None, :])
            if not values[0] > 0:
                break
            found = float(values[-1] / values[0])
            if found < least:
                best, least = logs.copy(), found
            logs = logs - (vectors[:, -1] ** 2 - vectors[:, 0] ** 2) / np.sqrt(1.0 + step)
            logs -= logs.mean()
    scales = np.exp(best) / length
    scaled: Array = scales / np.exp(np.log(scales).mean())
    return scaled
