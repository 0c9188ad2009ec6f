"""Alpha-fair shares of improvement between tasks: a quadratic with a power barrier."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg.lapack import dposv

from mtlfleet.linalg.gram import Array, norms

CANCELLED = 1e8
"""Two unit gradients that cancel to a part in this many have no solution: weights of a pair go by its power a / (1 +
a), and are cut there, or at 1e4 if that is more."""

TIGHT = 0.1
"""How near a line search comes to its minimum, as a part of the way to where a b vanishes."""

SHORT = 0.5
"""The longest relative step of a b that is on its way out of bounds."""


def fair_weights(gram: Array, alpha: float, *, iterations: int = 200) -> tuple[Array, bool]:
    r"""The w > 0 with :math:`(G w)_k = w_k^{-1/a}`, and whether it was reached.

    With :math:`w_k = s_k b_k`, :math:`s_k = n_k^{-2a/(1+a)}` (the answer for orthogonal gradients), both sides of row k
    scale with :math:`c_k = n_k^{2(1-a)/(1+a)}`: :math:`M b = c \circ b^{-1/a}`, the minimum of :math:`\tfrac12 b^T M b
    + \sum_k c_k \psi(b_k)`, strictly convex. Newton's method in relative steps, with a line search on the slope.

    gram [K, K] without zero rows, a > 0 -> (w [K], True) or (w with b cut, False).
    """
    size = norms(gram)
    unit = float(np.exp(np.log(size).mean()))
    size, gram = size / unit, gram / unit**2
    scale, right = size ** (-2.0 * alpha / (1.0 + alpha)), size ** (2.0 * (1.0 - alpha) / (1.0 + alpha))
    matrix = gram * scale[:, None] * scale[None, :]
    b, found = _newton(matrix, right, alpha, iterations)
    return scale * b * unit ** (-2.0 * alpha / (1.0 + alpha)), found


def _newton(matrix: Array, right: Array, alpha: float, iterations: int) -> tuple[Array, bool]:
    """b with M b = c b^(-1/a), to rounding of the terms that are added up, not of what is left of them.

    Without a solution b grows for ever. Once a long step has left the bounds, the whole way is taken again in short
    ones, which stay near the directions that balance the tasks, and b is cut at the bound.
    """
    largest = max(1e4, CANCELLED ** (alpha / (1.0 + alpha))) * np.sqrt(len(matrix))
    together = max(float(matrix.sum()), 1e-8 * float(right.sum()))
    b = start = np.full(len(matrix), (float(right.sum()) / together) ** (alpha / (1.0 + alpha)))
    terms, best, worst, stalled, longest = np.abs(matrix), b, np.inf, 0, np.inf
    for _ in range(iterations):
        pull = right * b ** (1.0 - 1.0 / alpha)
        held = b * (matrix @ b)
        missing = pull - held
        residual = float(np.abs(missing / (pull + b * (terms @ b))).max())
        stalled = stalled + 1 if worst <= 1e-6 and residual > 0.5 * worst else 0
        if residual < worst:
            best, worst = b, residual
        if worst <= 1e-15 or (stalled and worst <= 1e-9) or stalled > 8:
            break
        move = _solve(matrix, b, pull / alpha, missing)
        if max(float(move.max()), -float(move.min())) > 0.1:
            turned = b * move
            move = move * _stride(move, float(move @ held), float(turned @ matrix @ turned), pull, -1.0 / alpha)
            move = move * min(1.0, longest / float(np.abs(move).max()))
        after = b * (1.0 + move)
        outside = math.sqrt(float(after @ after)) / largest
        if outside > 1.0 and longest < np.inf:
            return after / outside, False
        b, longest = (after, longest) if outside <= 1.0 else (start, SHORT)
    return best, worst <= 1e-9


def _solve(matrix: Array, b: Array, diagonal: Array, missing: Array) -> Array:
    """(diag(b) M diag(b) + diag(d)) x = m, solved with unit diagonal: norms far apart then cost no digits."""
    root = 1.0 / np.sqrt(b * b * np.diagonal(matrix) + diagonal)
    scales = b * root
    scaled = matrix * scales[:, None]
    scaled *= scales
    scaled.flat[:: len(b) + 1] = 1.0
    _, move, failed = dposv(scaled.T, root * missing)  # turned: a copy less
    return root * (np.linalg.solve(scaled, root * missing) if failed else move)


def _stride(move: Array, slope: float, curve: float, pull: Array, power: float) -> float:
    r"""t > 0 that nearly minimises the objective along b (1 + t move), by its slope.

    :math:`\phi'(t) = s + t c - \sum_k p_k m_k (1 + t m_k)^{-1/a}` rises with t, costs K numbers, and unlike differences
    of the objective keeps its digits near the minimum. Newton's method, halving where that leaves the bracket; a tenth
    of the first slope is near enough, and so is a tenth of the way to where a b would vanish: there the slope has a
    pole. Steps longer than 1 let b grow by more than doubling.
    """
    fastest = float(move.min())
    low, high = 0.0, -1.0 / fastest if fastest < 0 else np.inf
    weights = pull * move
    stride, near, wide = min(1.0, 0.5 * high), 0.1 * abs(slope - float(weights.sum())), TIGHT * high
    for _ in range(12):
        grown = 1.0 + stride * move
        barrier = weights * grown**power
        rise = slope + stride * curve - float(barrier.sum())
        low, high = (stride, high) if rise < 0 else (low, stride)
        if abs(rise) <= near or high - low <= wide:
            break
        after = stride - rise / (curve - power * float((barrier * move) @ (1.0 / grown)))
        outside = 0.5 * (low + high) if np.isfinite(high) else 4.0 * stride
        stride = after if low < after < high else outside
    return stride
