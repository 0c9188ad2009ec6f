"""What every solver asks of a Gram matrix first: norms, cosines, a factor, the length of a combination.

Letters: K tasks; G = J J^T the Gram [K, K] of rows g_k; n_k = |g_k|; H the Gram of the unit rows g_k / n_k.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STATIONARY = 1e-6
"""A combination is called stationary when it is this much shorter than its terms together: float32 gradients hold no
more."""


def norms(gram: Array) -> Array:
    """[K] norms of the rows; exactly zero only for a zero row."""
    return np.sqrt(np.maximum(np.diagonal(gram), 0.0))


def unit(gram: Array, length: Array) -> Array:
    """H [K, K]: cosines between rows, with a zero row and column for a zero gradient."""
    inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    cosines: Array = gram * inverse[:, None] * inverse[None, :]
    return cosines


def factor(gram: Array) -> Array:
    """R [K, K] with R R^T = G: rows with the same inner products as the gradients.

    Rank-deficient Grams go by their eigenvalues, with those that are rounding (K machine epsilons of the largest) set
    to zero: their roots, 1e-8, would otherwise pass for directions.
    """
    try:
        lower: Array = np.asarray(np.linalg.cholesky(gram), dtype=np.float64)
        if np.diagonal(lower).min() > 1e-6 * np.sqrt(np.diagonal(gram).max()):
            return lower
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(gram)
    noise = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    rows: Array = vectors * np.sqrt(np.where(values > noise, values, 0.0))
    return rows


def regularised(gram: Array, reg: float, norm_eps: float) -> Array:
    """The Gram as given when both are zero; else scaled to unit trace (to zero if its trace is below ``norm_eps``) with
    ``reg`` on its diagonal."""
    trace = float(np.trace(gram))
    if trace <= 0 or not (reg or norm_eps):
        return gram
    scaled = gram / trace if trace >= norm_eps else np.zeros_like(gram)
    posed: Array = scaled + reg * np.eye(len(gram))
    return posed


def corner(tasks: int, task: int) -> Array:
    """[K]: all weight on one task."""
    weights = np.zeros(tasks)
    weights[task] = 1.0
    return weights


def normalised(weights: Array) -> Array:
    """[K] scaled to sum to 1."""
    scaled: Array = weights / weights.sum()
    return scaled


def length(weights: Array, gram: Array) -> float:
    """|J^T w|, the norm of a combination of rows."""
    square = max(float(weights @ gram @ weights), 0.0)
    return math.sqrt(square)


def is_stationary(weights: Array, gram: Array) -> bool:
    """Whether J^T w vanishes beside its terms: |J^T w| <= 1e-6 sum_k |w_k| n_k (true when all terms are zero)."""
    return length(weights, gram) <= STATIONARY * float(np.abs(weights) @ norms(gram))


def clip(weights: Array, gram: Array, max_norm: float | None) -> Array:
    """Weights shrunk so that |J^T w| <= max_norm; None and 0 mean no limit."""
    size = length(weights, gram) if max_norm else 0.0
    return weights * (max_norm / size) if max_norm and size > max_norm else weights
