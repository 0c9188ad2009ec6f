"""What a step did to each task, told beside a method that does not look at the Gram: observed, never used."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.layout import Layout
from mtlfleet.engine.products import block_gram

Watch = Literal["held", "passes"]


class Effect(NamedTuple):
    """Of the averaged task gradients g_k and the shared gradient d as it was written, on the CPU in float64."""

    gram: Tensor  # [K, K]
    descents: Tensor  # [K], g_k . d


def effect(rows: Tensor, layout: Layout, exchange: Exchange, shard: Tensor | None = None) -> Effect | None:
    """rows [K, n], this rank's columns; d is ``shard`` [n], or lies in ``.grad``. None where a product is not finite.

    One block sum and one all-reduce of K * (K + 1) numbers.
    """
    told = exchange.total(torch.cat([block_gram(rows), block_gram(rows, _columns(layout, exchange, shard))], dim=1))
    return Effect(told[:, :-1], told[:, -1]) if torch.isfinite(told).all() else None


def _columns(layout: Layout, exchange: Exchange, shard: Tensor | None) -> Tensor:
    """[1, n]: d's columns on this rank."""
    if shard is not None:
        return shard.unsqueeze(0)
    found = layout.empty(1, of=layout.shard)
    for index, start, column, size in layout.columns(exchange.rank):
        gradient = layout.parameters[index].grad
        if gradient is not None:
            found[0, column : column + size] = gradient.reshape(-1)[start : start + size]
    return found
