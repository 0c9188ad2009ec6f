"""One gradient on its way to its mean over ranks, in the memory that will hold it on every rank.

For a single gradient the sum in place moves as many bytes as a shard's exchange and its gathering, in one collective
instead of two and with one copy instead of three. It leaves while the pass runs, as K of them do, but in longer
messages: none waits for the memory of the one before. The task parameters' gradients travel at its end.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.hooks import Arrivals
from mtlfleet.engine.layout import Layout

LONGEST = 4_194_304  # numbers in a message: 16 MiB, near what torch's own data parallelism takes for one


class Direction:
    """``flat`` [padded]: filled parameter by parameter, summed over ranks piece by piece, in one order on all.

    ``room`` holds it, and behind it what travels along.
    """

    def __init__(self, layout: Layout, exchange: Exchange, room: Tensor) -> None:
        self._layout = layout
        self._exchange = exchange
        self._room = room
        self.flat = room[: layout.padded]
        sizes = [parameter.numel() for parameter in layout.parameters]
        parts = self.flat.split_with_sizes([*sizes, layout.padded - layout.size])
        self._padding = parts[-1]
        self._places = [part.view(p.shape) for part, p in zip(parts, layout.parameters, strict=False)]
        self._arrivals = Arrivals(layout, ordered=False)
        self._given = False
        self._there: list[bool] = []
        self._next = self._sent = 0
        self._works: list[Any] = []

    def begin(self) -> None:
        """Nothing is there yet."""
        self._arrivals.begin()
        self._given = False
        self._there = [False] * len(self._places)
        self._next = self._sent = 0
        self._works = []

    def hooked(self) -> AbstractContextManager[None]:
        """While this lasts, a backward pass hands every shared parameter's gradient over as soon as it is complete."""
        return self._arrivals.hooked(self._take)

    def _take(self, members: range) -> None:
        """What is in ``.grad`` of these parameters; None counts as zero."""
        parameters = self._layout.parameters[members.start : members.stop]
        pairs = list(zip(parameters, self._places[members.start : members.stop], strict=True))
        there = [(place, parameter.grad) for parameter, place in pairs if parameter.grad is not None]
        if there:
            torch._foreach_copy_([place for place, _ in there], [gradient for _, gradient in there])
        for parameter, place in pairs:
            if parameter.grad is None:
                place.zero_()
            parameter.grad = None
        self._there[members.start : members.stop] = [True] * len(members)
        self._advance()

    def give(self, index: int, gradient: Tensor) -> None:
        """A gradient that did not come through ``.grad``; all of a pass come so, or none."""
        self._given = True
        self._places[index].copy_(gradient)
        self._there[index] = True
        self._advance()

    def _advance(self) -> None:
        """Every message that is full now leaves, in order."""
        while self._next < len(self._there) and self._there[self._next]:
            self._next += 1
        if self._next < len(self._there):
            # The last message waits for what travels along.
            while self._sent + LONGEST <= min(self._layout.offsets[self._next], self._layout.padded - 1):
                self._send(self._sent + LONGEST)

    def end(self, along: Tensor | None = None) -> Tensor | None:
        """What no one gave counts as zero; waits until everything is summed, ``along`` too: gives its sum.

        An exchange that fails raises here.
        """
        if not self._given:
            self._arrivals.end(self._take)
        for index in range(self._next, len(self._there)):
            if not self._there[index]:
                self._places[index].zero_()
        self._padding.zero_()
        stop = self._layout.padded
        if along is not None:
            stop += along.numel()
            self._room[self._layout.padded : stop].copy_(along)
        while self._sent + LONGEST < stop:
            self._send(self._sent + LONGEST)
        self._send(stop)
        for work in self._works:
            work.wait()
        self._works = []
        return None if along is None else self._room[self._layout.padded : stop]

    def carries(self, along: Tensor) -> bool:
        """Whether there is room for these numbers, in their own type."""
        return along.dtype == self._room.dtype and self._layout.padded + along.numel() <= self._room.numel()

    def _send(self, stop: int) -> None:
        self._works.append(self._exchange.post_sum(self._room[self._sent : stop]))
        self._sent = stop
