"""Inner products of rows, summed in float64: float32 sums lose up to 1e-3 of the Gram at P = 2e7."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CACHED = 131_072  # float64 numbers of a block: 1 MiB, so that the conversion never leaves the cache


def block_gram(rows: Tensor, other: Tensor | None = None) -> Tensor:
    """rows [K, n] (and other [J, n]) -> [K, K] (or [K, J]) on the CPU, block after block of columns, in float64."""
    right = rows if other is None else other
    gram = torch.zeros(rows.shape[0], right.shape[0], dtype=torch.float64, device=rows.device)
    columns = max(256, CACHED // max(1, rows.shape[0]))
    for start in range(0, rows.shape[1], columns):
        block = rows[:, start : start + columns].to(torch.float64)
        beside = block if other is None else right[:, start : start + columns].to(torch.float64)
        gram.addmm_(block, beside.t())
    return gram.cpu()


def group_grams(rows: Tensor, groups: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    """rows [K, n], for each group its stretches (column, how many) -> [L, K, K] on the CPU."""
    found = torch.zeros(len(groups), rows.shape[0], rows.shape[0], dtype=torch.float64)
    for place, stretches in enumerate(groups):
        for start, size in stretches:
            found[place] += block_gram(rows[:, start : start + size])
    return found


def combine(rows: Tensor, weights: Tensor, *, in_place: bool) -> Tensor:
    """weights [K] @ rows [K, n] -> [n]; ``in_place`` leaves it in the first row: no further n numbers are needed."""
    weights = weights.to(rows.dtype).to(rows.device)
    if not in_place:
        return torch.mv(rows.t(), weights)
    first, others = float(weights[0]), weights[1:]
    for start in range(0, rows.shape[1], CACHED):
        block = rows[:, start : start + CACHED]
        block[0].addmv_(block[1:].t(), others, beta=first)
    return rows[0]
