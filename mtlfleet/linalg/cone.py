"""Projection on the dual cone of a set of vectors: the nearest direction that hurts none of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtlfleet.linalg.gram import Array, factor, norms, unit
from mtlfleet.linalg.nnls import ROUNDING, nonnegative_least_squares

ROUNDS = 12
STEPS = 12


def project_rows(gram: Array) -> Array:
    r"""Each row's projection on {x : g_k x >= 0 for all k}, as combinations of the rows.

    Row i of the result is :math:`\arg\min_{v \ge e_i} v^T G v`; its combination J^T v is the projection of g_i. With
    v = e_i + z this asks for z >= 0 with H (e_i + z) >= 0 and no entry positive in both; unit rows are used inside, so
    norm ratios do not matter. A row in conflict with none, and a zero row, is its own projection.

    gram [K, K] -> [K, K].
    """
    size = norms(gram)
    cosines = unit(gram, size)
    added = np.zeros_like(cosines)
    open_rows = np.flatnonzero((cosines < -ROUNDING).any(axis=1))
    if not len(open_rows):
        return np.eye(len(size))
    found, solved = _pivot(cosines, open_rows)
    added[open_rows[solved]] = found[solved]
    if not solved.all():
        system = factor(cosines).T
        for i in open_rows[~solved]:
            added[i] = nonnegative_least_squares(system, -system[:, i])
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    result: Array = np.eye(len(size)) + added * size[:, None] * inverse[None, :]
    return result


def project_sum(gram: Array, preference: Array) -> Array:
    r"""argmin over :math:`v \ge p` of v^T G v: the projection of sum_k p_k g_k on {x : g_k x >= 0 for all k}.

    gram [K, K], p [K] -> v [K]. A zero row keeps its preference.
    """
    size = norms(gram)
    cosines = unit(gram, size)
    scaled = preference * size
    if (cosines @ scaled >= -ROUNDING * float(np.abs(scaled).sum())).all():
        return preference.copy()
    system = factor(cosines).T
    added = nonnegative_least_squares(system, -(system @ scaled) / float(size.max())) * float(size.max())
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    result: Array = preference + added * inverse
    return result


def _pivot(cosines: Array, rows: NDArray[np.intp]) -> tuple[Array, NDArray[np.bool_]]:
    """z for many rows at once by block principal pivoting, and for which of them it holds.

    Guess where z is positive (after some projected gradient steps), solve, move every index that came out with the
    wrong sign to the other side, repeat. That settles in a few rounds or not at all; what has not settled, or has with
    a nearly singular block, is left to others.
    """
    result = np.zeros((len(rows), len(cosines)))
    solved = np.zeros(len(rows), dtype=bool)
    waiting = np.arange(len(rows))
    positive = _guess(cosines, rows)
    for _ in range(ROUNDS):
        if not len(waiting):
            break
        try:
            z = _solve_blocks(cosines, positive, -cosines[rows[waiting]])
        except np.linalg.LinAlgError:
            break
        products = cosines[rows[waiting]] + z @ cosines
        slack = 10 * ROUNDING * (1.0 + np.abs(z).max(axis=1, keepdims=True))
        wrong = np.where(positive, (z < 0) | (np.abs(products) > slack), products < -slack)
        done = ~wrong.any(axis=1)
        result[waiting[done]], solved[waiting[done]] = z[done], True
        waiting, positive = waiting[~done], (positive ^ wrong)[~done]
    return result, solved


def _guess(cosines: Array, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Where z may be positive: after ``STEPS`` accelerated projected gradient steps for all rows at once.

    They cost less than the round or two of solving that they save. Steps are as long as the Frobenius norm of H^8 lets
    them be: at most K^(1/16) shorter than by the largest eigenvalue, and three products cheaper.
    """
    power = cosines
    for _ in range(3):
        power = power @ power
    longest = float(np.vdot(power, power)) ** (1.0 / 16.0)
    matrix = (cosines / longest).astype(np.float32)  # a guess needs no more digits
    pull = matrix[rows]
    z = ahead = np.zeros_like(pull)
    for turn in range(STEPS):
        before, z = z, ahead - ahead @ matrix
        z -= pull
        np.maximum(z, 0.0, out=z)
        ahead = z - before
        ahead *= turn / (turn + 3.0)
        ahead += z
    found: NDArray[np.bool_] = z > 0
    return found


def _solve_blocks(cosines: Array, positive: NDArray[np.bool_], targets: Array) -> Array:
    """Per row r: z with H[F, F] z[F] = targets[r, F] on F = positive[r], zero elsewhere; one batch, blocks padded."""
    counts, tasks = positive.sum(axis=1), len(cosines)
    widest = max(int(counts.max()), 1)
    # A task more, orthogonal to all: what blocks are padded with. One flat index is a third of two.
    padded = np.zeros((tasks + 1, tasks + 1))
    padded[:tasks, :tasks] = cosines
    members = np.full((len(positive), widest), tasks)
    places = np.arange(widest) < counts[:, None]
    rows, columns = np.nonzero(positive)
    members[places] = columns
    blocks = padded.ravel().take(members[:, :, None] * (tasks + 1) + members[:, None, :])
    diagonal = np.arange(widest)
    blocks[:, diagonal, diagonal] = 1.0  # H has a unit diagonal on F; padding becomes the identity
    right = np.zeros((len(positive), widest, 1))
    right[places, 0] = targets[rows, columns]
    z = np.zeros_like(targets)
    z[rows, columns] = np.linalg.solve(blocks, right)[places, 0]
    return z
