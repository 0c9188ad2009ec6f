"""One task's gradients, taken from ``.grad`` as backward produces them and sent a bucket at a time.

A parameter's gradient is copied and dropped at once, so what is alive besides the shard is a layer's gradient and the
buckets in flight. Buckets leave in the layout's order on every rank, whatever order the graphs of the ranks ran in: a
gradient that comes early waits in ``.grad``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtlfleet.engine.direction import Direction
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.hooks import handed_over, twice
from mtlfleet.engine.layout import Layout

IN_FLIGHT = 2  # messages: one on its way while the next one fills


@dataclass
class _Slot:
    """A preallocated pair of messages, and where the answer goes once it is there."""

    sent: Tensor
    received: Tensor
    work: Any = None
    into: Tensor | None = None


class Buckets:
    """Rows of the K x n shard, filled one task after another. Buffers are allocated once and reused in every step."""

    def __init__(self, layout: Layout, exchange: Exchange, tail: int = 0) -> None:
        self.layout = layout
        self.exchange = exchange
        self._sizes = [parameter.numel() for parameter in layout.parameters]
        self._shapes = [parameter.shape for parameter in layout.parameters]
        self._places: list[Tensor] = []  # one rank: the columns of each parameter in the row
        self._slots: list[_Slot] = []
        self._pieces: list[list[tuple[int, Tensor, int, int]]] = []
        # ``tail`` more numbers carry what travels with a single gradient.
        self._most = max(layout.padded + tail, 4 * layout.bucket) if exchange.world > 1 else 0
        self._lay_out(min(self._most, 2 * IN_FLIGHT * layout.bucket))
        self._spare: Tensor | None = None
        self._ready: list[Tensor | bool | None] = []  # None: still to come; True: in .grad; False: dealt with
        self._next = self._bucket = 0
        self._open = -1  # the bucket that is being filled
        self._row: Tensor | None = None
        self._add = False

    def _lay_out(self, numbers: int) -> None:
        """Memory for the messages. Allocated once: fresh memory costs a page fault every 4 KiB."""
        layout = self.layout
        self._pool = layout.empty(of=numbers)
        self._direction: Direction | None = None
        pairs = torch.split(self._pool.view(self.exchange.wire or layout.dtype()), 2 * layout.bucket)
        whole = [pair for pair in pairs if pair.numel() == 2 * layout.bucket and numbers]
        self._slots = [_Slot(pair[: layout.bucket], pair[layout.bucket :]) for pair in whole[:IN_FLIGHT]]
        self._pieces = [self._stretches(index) for index in range(len(layout.parameters))] if self._slots else []

    def _room(self) -> Tensor:
        """Memory for a whole direction and what travels along; its first part carries the messages of other passes.

        Allocated when it is first needed, between passes. ``.grad`` are views of it, as of torch's gradient buckets.
        """
        if self._pool.numel() < self._most:
            self._lay_out(self._most)
        return self._pool

    @property
    def flat(self) -> Tensor:
        """[padded]: where a direction is gathered that has no other place."""
        return self._room()[: self.layout.padded]

    @property
    def direction(self) -> Direction | None:
        """The way of a single gradient that every rank is to have whole; None where the wire is narrower than it."""
        if self._direction is None and self.exchange.wire is None:
            self._direction = Direction(self.layout, self.exchange, self._room())
        return self._direction

    def _stretches(self, index: int) -> list[tuple[int, Tensor, int, int]]:
        """(bucket, where in its message, start and stop in the parameter) of parameter ``index``."""
        found = []
        for bucket, at, start, stop in self.layout.pieces(index):
            place = self._slots[bucket % len(self._slots)].sent[at : at + stop - start]
            whole = stop - start == self._sizes[index]
            found.append((bucket, place.view(self._shapes[index]) if whole else place, start, stop))
        return found

    @property
    def spare(self) -> Tensor:
        """A row [n] for a weighted pass; methods that combine their rows never ask for it."""
        if self._spare is None:
            self._spare = self.layout.empty(of=self.layout.shard)
        return self._spare

    def begin(self, row: Tensor, *, add: bool = False) -> None:
        """Start a task whose shard is ``row`` [n]; ``add`` sums on top of what is there (a further micro-batch)."""
        self._row, self._add = row, add
        if not self._slots:
            parts = row.split_with_sizes([*self._sizes, row.numel() - self.layout.size])
            self._places = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=False)]
        self._ready = [None] * len(self.layout.parameters)
        self._next = self._bucket = 0
        self._open = -1

    def hooked(self) -> AbstractContextManager[None]:
        """While this lasts, backward passes hand every shared parameter's gradient over as soon as it is complete."""
        return handed_over(self.layout, self._arrived)

    def _arrived(self, index: int, parameter: Tensor) -> None:
        if self._ready[index] is not None:
            raise twice(self.layout, index)
        if self._slots:
            self._ready[index] = True
            self._advance()
        else:  # no message waits for the one before: straight to its columns
            self._ready[index] = False
            self._keep(index, parameter.grad)
            parameter.grad = None

    def give(self, index: int, gradient: Tensor) -> None:
        """A gradient that did not come through ``.grad``."""
        self._ready[index] = gradient
        self._advance()

    def _advance(self) -> None:
        while self._next < len(self._ready) and (found := self._ready[self._next]) is not None:
            index = self._next
            self._next += 1
            parameter = self.layout.parameters[index]
            gradient = parameter.grad if found is True else found
            self._ready[index] = False
            if isinstance(gradient, Tensor):
                self._place(index, gradient)
            del gradient, found
            parameter.grad = None

    def _place(self, index: int, gradient: Tensor | None) -> None:
        """Copy parameter ``index`` (None = zeros) to where it belongs; send every bucket that this completes."""
        if not self._slots:
            self._keep(index, gradient)
            return
        flat = None
        for bucket, place, start, stop in self._pieces[index]:
            if bucket != self._bucket:
                self._send()
            if bucket != self._open:
                self._free(bucket)
                self._open = bucket
            if gradient is None:
                place.zero_()
            elif place.shape == gradient.shape:
                place.copy_(gradient)
            else:
                flat = gradient.reshape(-1) if flat is None else flat
                place.copy_(flat[start:stop])

    def _keep(self, index: int, gradient: Tensor | None) -> None:
        """One rank: into the row, or on top of what is there."""
        place = self._places[index]
        if gradient is None:
            place.mul_(1.0 if self._add else 0.0)
        elif self._add:
            place.add_(gradient)
        else:
            place.copy_(gradient)

    def _send(self) -> None:
        """The current bucket is full: off it goes."""
        assert self._row is not None
        slot = self._slots[self._bucket % len(self._slots)]
        first, last = self.layout.span(self._bucket)
        size, world = last - first, self.layout.world
        if last == self.layout.padded:
            slot.sent[size - (self.layout.padded - self.layout.size) : size].zero_()
        slot.into = self._row[first // world : last // world]
        slot.work = self.exchange.post(slot.sent[:size], slot.received[:size])
        self._bucket += 1

    def _free(self, bucket: int) -> None:
        """Finish the message that holds the buffers which ``bucket`` will use."""
        if self._slots:
            slot = self._slots[bucket % len(self._slots)]
            if slot.work is not None and slot.into is not None:
                size = slot.into.numel() * self.layout.world
                self.exchange.settle(slot.work, slot.sent[:size], slot.received[:size], slot.into, add=self._add)
                slot.work = slot.into = None

    def end(self) -> None:
        """The task is through: what its graph did not reach counts as zero, and the last bucket leaves."""
        for index in range(self._next, len(self._ready)):
            found = self._ready[index]
            if found is False:
                continue
            gradient = self.layout.parameters[index].grad if found is True else found
            self._place(index, gradient if isinstance(gradient, Tensor) else None)
            self.layout.parameters[index].grad = None
        self._next = len(self._ready)
        if self._slots:
            self._send()

    def drain(self) -> None:
        """Wait for what is still in flight. An exchange that fails raises here, on every rank that took part."""
        for bucket in range(len(self._slots)):
            self._free(bucket)

    def add(self, row: Tensor, gradients: Sequence[Tensor | None], *, add: bool = False) -> None:
        """A whole task at once, from a list of gradients in the layout's order."""
        self.begin(row, add=add)
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                self.give(index, gradient)
        self.end()
