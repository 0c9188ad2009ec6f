"""Weights that are shares: the nearest point of the simplex, and descent on it for products of two batches."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array
from mtlfleet.linalg.min_norm import min_norm_point


def nearest_shares(point: Array) -> Array:
    """The nearest w >= 0 [K] with sum 1, exactly, at any size of ``point`` (Held, Wolfe and Crowder, 1974)."""
    level = point - point.max()
    line = np.sort(level)[::-1]
    excess = np.cumsum(line) - 1.0
    count = int(np.flatnonzero(line * np.arange(1, len(line) + 1) > excess)[-1]) + 1
    shares = np.maximum(level - excess[count - 1] / count, 0.0)
    nearest: Array = shares / shares.sum()
    return nearest


def mean_root(products: Array) -> float:
    """Mean over tasks of the root of the diagonal, negative entries (products of two noisy batches) as zero."""
    return float(np.sqrt(np.maximum(np.diagonal(products), 0.0)).mean())


def towards_mean(products: Array, strength: float) -> Array:
    r"""argmin over the simplex of :math:`|g_w + \lambda g_0|^2`, g_0 the mean of the rows, from their products.

    Products of two batches [K, K] need be neither symmetric nor positive: their symmetric part is taken, with as much
    of the identity on top as makes it a Gram. Batches that disagree thus pull the shares together; leaving the negative
    eigenvalues out would make them arbitrary. With E = I + (lambda / K) 1 1^T the answer is the shortest convex
    combination of rows with Gram E G E.
    """
    gram = (products + products.T) / 2.0
    identity = np.eye(len(gram))
    gram += max(-float(np.linalg.eigvalsh(gram)[0]), 0.0) * identity
    toward = identity + strength / len(gram)
    return min_norm_point(toward @ gram @ toward)


def towards_mean_by_steps(
    products: Array, strength: float, start: Array, *, lr: float, momentum: float, iterations: int
) -> Array:
    r"""The same by projected gradient steps with momentum along :math:`A (w + \lambda / K)`, A scaled to unit length.

    Started at ``start``, with no momentum yet. Where A has no positive diagonal there is no scale, and no step.
    """
    scale = mean_root(products)
    if scale <= 0:
        return start
    scaled = products / scale**2
    shares, velocity = start, np.zeros_like(start)
    for _ in range(iterations):
        velocity = momentum * velocity + scaled @ (shares + strength / len(start))
        shares = nearest_shares(shares - lr * velocity)
    return shares
