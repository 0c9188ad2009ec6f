"""What each exact way costs, computed from shapes alone: the same on every rank, in every run, on every clock.

The constants were fitted to CPU times of MLPs, convolutions and transformers with 3 to 40 tasks (docs/performance.md).
"""

from __future__ import annotations

TOGETHER = 1_048_576  # numbers of task gradients that a batched pass may keep alive: 4 MiB
SHORT = 16_384  # numbers that a layer reads or gives: below this, calling an operation costs more than the operation
FEWEST = 4  # tasks in a batched pass
CALL = 750_000  # operations that a layer's calls in one task's pass are worth
MARGIN = 1.25  # by which the factored way must be ahead: CPU times stray from operation counts by that much


def gain(tasks: int, rows: int, world: int, d_in: int, d_out: int, unfolding: int = 0) -> float:
    """Operations saved for certain by the factored way in one layer; negative where it may lose.

    Direct: K weight gradients, their copies, the Gram in float64 (twice the price), the combination. Factored: A A^T of
    all ranks' rows, its product with each D_k, their products in float64, one weight gradient, the gathered factors;
    and A itself, made twice from the inputs, where they have to be unfolded (``unfolding`` numbers per row).
    """
    every, size = rows * world, d_in * d_out
    direct = 2 * tasks * rows * size + tasks * size * (12 + 4 * tasks)
    factored = 4 * rows * every * (d_in + tasks * d_out) + 4 * tasks**2 * rows * d_out + 2 * rows * size
    factored += 12 * every * (d_in + tasks * d_out) + 2 * 12 * rows * unfolding
    return float(direct - MARGIN * factored)


def chunk(tasks: int, parameters: int, numbers: int) -> int:
    """Tasks per batched pass; 0 where one pass per task is not dearer, or would be missed by memory.

    Batching saves calls and costs copies: it pays for small layers and several tasks. ``parameters``: numbers whose
    gradients a pass gives; ``numbers``: the most that a layer reads or gives in this step, 0 if that is unknown.
    """
    most = min(tasks, TOGETHER // max(1, parameters))
    if not 0 < numbers <= SHORT or most < FEWEST:
        return 0
    passes = -(-tasks // most)
    return -(-tasks // passes)


def outweighs(saved: float, tasks: int, layers: int) -> bool:
    """Whether the operations that factored layers save are worth more than the calls that batched passes save."""
    return saved > CALL * tasks * layers
