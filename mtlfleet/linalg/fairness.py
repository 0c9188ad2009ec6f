"""Alpha-fair shares of improvement between tasks: a quadratic with a power barrier."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, norms

CANCELLED = 1e8
"""Two unit gradients that cancel to a part in this many have no solution: weights of a pair go by its power a / (1 +
a), and are cut there, or at 1e4 if that is more."""


def fair_weights(gram: Array, alpha: float, *, iterations: int = 200) -> tuple[Array, bool]:
    r"""The w > 0 with :math:`(G w)_k = w_k^{-1/a}`, and whether it was reached.

    With :math:`w_k = s_k b_k`, :math:`s_k = n_k^{-2a/(1+a)}` (the answer for orthogonal gradients), both sides of row k
    scale with :math:`c_k = n_k^{2(1-a)/(1+a)}`: :math:`M b = c \circ b^{-1/a}`, the minimum of :math:`\tfrac12 b^T M b
    + \sum_k c_k \psi(b_k)`, strictly convex. Newton's method in relative steps, which keep b positive, with
    backtracking.

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
    largest = max(1e4, CANCELLED ** (alpha / (1.0 + alpha))) * np.sqrt(len(matrix))
    together = max(float(matrix.sum()), 1e-8 * float(right.sum()))
    b = np.full(len(matrix), (float(right.sum()) / together) ** (alpha / (1.0 + alpha)))
    terms, best, worst = np.abs(matrix), b, np.inf
    for _ in range(iterations):
        pull = right * b ** (1.0 - 1.0 / alpha)
        missing = pull - b * (matrix @ b)
        residual = float(np.abs(missing / (pull + b * (terms @ b))).max())  # of what was added up, not of what was left
        settled = residual <= 1e-15 or (worst <= 1e-9 and residual >= worst)
        if residual < worst:
            best, worst = b, residual
        if settled:
            break
        move = _solve(b[:, None] * matrix * b[None, :], pull / alpha, missing)
        size = float(np.abs(move).max())
        step = 1.0 if size < 0.3 else 1.0 / (1.0 + size)
        if size > 1e-6:
            step = _shortened(b, move, step, matrix, right, alpha, float(missing @ move))
        after = b * (1.0 + step * move)
        if np.linalg.norm(after) > largest:
            return after * (largest / np.linalg.norm(after)), False
        if size <= 1e-15:
            break
        b = after
    return best, worst <= 1e-9


def _solve(curved: Array, diagonal: Array, missing: Array) -> Array:
    """(C + diag(d)) x = m, solved with unit diagonal: norms far apart then cost no digits."""
    root = 1.0 / np.sqrt(np.diagonal(curved) + diagonal)
    scaled = curved * root[:, None] * root[None, :] + np.diag(diagonal * root**2)
    move: Array = root * np.linalg.solve(scaled, root * missing)
    return move


def _shortened(b: Array, move: Array, step: float, matrix: Array, right: Array, alpha: float, gain: float) -> float:
    """The step halved until the objective falls by a ten-thousandth of what its slope promises."""

    def objective(at: Array) -> float:
        power = 1.0 - 1.0 / alpha
        barrier = np.log(at) if alpha == 1 else at**power / power
        return float(0.5 * at @ matrix @ at - right @ barrier)

    here = objective(b)
    slack = 1e-12 * abs(here)
    for _ in range(40):
        if objective(b * (1.0 + step * move)) <= here - 1e-4 * step * gain + slack:
            break
        step *= 0.5
    return step
