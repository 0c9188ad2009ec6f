"""One gradient on its way to its mean over ranks, in the memory that will hold it on every rank.

For a single gradient the sum of a bucket in place moves as many bytes as a shard's exchange and its gathering, in one
collective instead of two and with one copy instead of three. It leaves while the pass runs, as K of them do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.hooks import handed_over, twice
from mtlfleet.engine.layout import Layout


class Direction:
    """``flat`` [padded]: filled parameter by parameter, summed over ranks bucket by bucket, in one order on all."""

    def __init__(self, layout: Layout, exchange: Exchange, flat: Tensor) -> None:
        self.flat = flat
        self._layout = layout
        self._exchange = exchange
        sizes = [parameter.numel() for parameter in layout.parameters]
        parts = flat.split_with_sizes([*sizes, layout.padded - layout.size])
        self._padding = parts[-1]
        self._places = [part.view(p.shape) for part, p in zip(parts, layout.parameters, strict=False)]
        self._there: list[bool] = []
        self._next = self._bucket = 0
        self._works: list[Any] = []

    def begin(self) -> None:
        """Nothing is there yet."""
        self._there = [False] * len(self._places)
        self._next = self._bucket = 0
        self._works = []

    def hooked(self) -> AbstractContextManager[None]:
        """While this lasts, a backward pass hands every shared parameter's gradient over as soon as it is complete."""
        return handed_over(self._layout, self._arrived)

    def _arrived(self, index: int, parameter: Tensor) -> None:
        if self._there[index]:
            raise twice(self._layout, index)
        assert parameter.grad is not None
        self.give(index, parameter.grad)
        parameter.grad = None

    def give(self, index: int, gradient: Tensor) -> None:
        """The gradient of parameter ``index``; every bucket that is full now leaves, in order."""
        self._places[index].copy_(gradient)
        self._there[index] = True
        while self._next < len(self._there) and self._there[self._next]:
            self._next += 1
        if self._next < len(self._there):
            self._send(self._layout.offsets[self._next])

    def end(self) -> None:
        """What no one gave counts as zero; waits until everything is summed. An exchange that fails raises here."""
        for index in range(self._next, len(self._there)):
            if not self._there[index]:
                self._places[index].zero_()
        self._padding.zero_()
        self._send(self._layout.padded)
        for work in self._works:
            work.wait()
        self._works = []

    def _send(self, filled: int) -> None:
        while self._bucket < self._layout.buckets:
            first, last = self._layout.span(self._bucket)
            if last > filled:
                return
            self._works.append(self._exchange.post_sum(self.flat[first:last]))
            self._bucket += 1
