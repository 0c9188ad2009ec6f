"""One task's gradients, taken from ``.grad`` as backward produces them and sent a bucket at a time.

Gradients are copied and dropped as soon as a group of them is complete, so what is alive besides the shard is a layer's
gradient and the buckets in flight. Buckets leave in the layout's order on every rank, whatever order the graphs of the
ranks ran in: a gradient that comes early waits in ``.grad``.
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
from mtlfleet.engine.hooks import Arrivals
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
        self._places: Sequence[Tensor] = ()  # one rank: the columns of each parameter in the row
        self._slots: list[_Slot] = []
        self._pieces: list[list[tuple[int, Tensor, int, int]]] = []
        # ``tail`` more numbers carry what travels with a single gradient.
        self._most = max(layout.padded + tail, 4 * layout.bucket) if exchange.world > 1 else 0
        self._lay_out(layout.empty(of=min(self._most, 2 * IN_FLIGHT * layout.bucket)))
        self._spare: Tensor | None = None
        self._arrivals = Arrivals(layout, ordered=exchange.world > 1)
        self._given = self._bucket = 0  # parameters that came one by one, not through ``.grad``; buckets that have left
        self._open = -1  # the bucket that is being filled
        self._row: Tensor | None = None
        self._add = False

    def _lay_out(self, pool: Tensor) -> None:
        """Put the messages there. Memory is allocated once: fresh memory costs a page fault every 4 KiB."""
        layout, self._pool = self.layout, pool
        self._direction: Direction | None = None
        pairs = torch.split(self._pool.view(self.exchange.wire or layout.dtype()), 2 * layout.bucket)
        whole = [pair for pair in pairs if pair.numel() == 2 * layout.bucket and len(pool)]
        self._slots = [_Slot(pair[: layout.bucket], pair[layout.bucket :]) for pair in whole[:IN_FLIGHT]]
        self._pieces = [self._stretches(index) for index in range(len(layout.parameters))] if self._slots else []

    def _room(self) -> Tensor:
        """Memory for a whole direction and what travels along; its first part carries the messages of other passes.

        Allocated when it is first needed, between passes. ``.grad`` are views of it, as of torch's gradient buckets.
        """
        if self._pool.numel() < self._most:
            self._lay_out(self.layout.empty(of=self._most))
        return self._pool

    def rows(self, tasks: int) -> Tensor:
        """[tasks, n] for gradients that nobody keeps. Once they are combined in the first row, a whole direction has
        room behind it, over the others and over the messages, which lie behind the last."""
        layout, pool = self.layout, self._pool.numel()
        size = tasks * layout.shard
        if not self._slots or pool == self._most:
            return layout.empty(tasks, of=layout.shard)
        memory = layout.empty(of=max(size + pool, layout.shard + layout.padded))
        self._lay_out(memory[size : size + pool])
        return memory[:size].view(tasks, layout.shard)

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
            self._places = self.layout.views(row)
        self._arrivals.begin()
        self._given = self._bucket = 0
        self._open = -1

    def hooked(self) -> AbstractContextManager[None]:
        """While this lasts, backward passes hand every shared parameter's gradient over as soon as it may go."""
        return self._arrivals.hooked(self._take)

    def _take(self, members: range) -> None:
        """What is in ``.grad`` of these parameters; None counts as zero."""
        parameters = self.layout.parameters[members.start : members.stop]
        self._put(members.start, [parameter.grad for parameter in parameters])
        for parameter in parameters:
            parameter.grad = None

    def give(self, index: int, gradient: Tensor) -> None:
        """A gradient that did not come through ``.grad``: all of a pass come so, or none. In the layout's order; what
        is left out counts as zero."""
        self._put(self._given, [*[None] * (index - self._given), gradient])
        self._given = index + 1

    def _put(self, first: int, gradients: Sequence[Tensor | None]) -> None:
        """Copy neighbouring gradients to where they belong; send every bucket that this completes."""
        if not self._slots:
            self._keep(self._places[first : first + len(gradients)], gradients)
            return
        moving: list[tuple[Tensor, Tensor]] = []
        for index, gradient in enumerate(gradients, first):
            flat = None
            for bucket, place, start, stop in self._pieces[index]:
                if bucket != self._open:
                    _copy(moving)
                    moving = []
                    if bucket != self._bucket:
                        self._send()
                    self._free(bucket)
                    self._open = bucket
                if gradient is None:
                    place.zero_()
                elif place.shape == gradient.shape:
                    moving.append((place, gradient))
                else:
                    flat = gradient.reshape(-1) if flat is None else flat
                    moving.append((place, flat[start:stop]))
        _copy(moving)

    def _keep(self, places: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """One rank: into the row, or on top of what is there."""
        there = [gradient for gradient in gradients if gradient is not None]
        if len(there) < len(gradients):
            if not self._add:
                torch._foreach_zero_([place for place, g in zip(places, gradients, strict=True) if g is None])
            places = [place for place, g in zip(places, gradients, strict=True) if g is not None]
        if there:
            (torch._foreach_add_ if self._add else torch._foreach_copy_)(list(places), there)

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
        if self._given:
            self._put(self._given, [None] * (len(self._sizes) - self._given))
        else:
            self._arrivals.end(self._take)
        if self._slots:
            self._send()

    def drain(self) -> None:
        """Wait for what is still in flight. An exchange that fails raises here, on every rank that took part."""
        for bucket in range(len(self._slots)):
            self._free(bucket)

    def add(self, row: Tensor, gradients: Sequence[Tensor | None], *, add: bool = False) -> None:
        """A whole task at once, from a list of gradients in the layout's order; an empty one is all zeros."""
        self.begin(row, add=add)
        self._put(0, gradients or [None] * len(self._sizes))
        self._given = len(self._sizes)
        self.end()


def _copy(moving: Sequence[tuple[Tensor, Tensor]]) -> None:
    """(to, from), all in one call."""
    if moving:
        torch._foreach_copy_([place for place, _ in moving], [gradient for _, gradient in moving])
