"""One task's gradients, taken from ``.grad`` as backward produces them and sent a bucket at a time.

A parameter's gradient is copied and dropped at once, so what is alive besides the shard is a layer's gradient and the
buckets in flight. Buckets leave in the layout's order on every rank, whatever order the graphs of the ranks ran in: a
gradient that comes early waits in ``.grad``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.layout import Layout

IN_FLIGHT = 3


@dataclass
class _Slot:
    """A preallocated pair of messages, and where the answer goes once it is there."""

    sent: Tensor
    received: Tensor
    work: Any = None
    into: Tensor | None = None


class Buckets:
    """Rows of the K x n shard, filled one task after another. Buffers are allocated once and reused in every step."""

    def __init__(self, layout: Layout, exchange: Exchange) -> None:
        self.layout = layout
        self.exchange = exchange
        self._pieces = [tuple(layout.pieces(i)) for i in range(len(layout.parameters))]
        self._slots: list[_Slot] = []
        # The whole direction is gathered after the last pass: until then its memory carries the messages. Allocated
        # once:
        # fresh memory costs a page fault every 4 KiB. ``.grad`` are views of it, as in torch's own gradient buckets.
        self.flat = layout.empty() if exchange.world > 1 else layout.empty(of=0)
        self.row = layout.empty(of=layout.shard if exchange.world > 1 else 0)  # for a weighted pass
        if exchange.world > 1:
            room = self.flat.view(exchange.wire or layout.dtype())
            for start in range(
                0, min(2 * IN_FLIGHT * layout.bucket, room.numel() - 2 * layout.bucket + 1), 2 * layout.bucket
            ):
                pair = room[start : start + 2 * layout.bucket]
                self._slots.append(_Slot(pair[: layout.bucket], pair[layout.bucket :]))
        self._ready: list[Tensor | bool | None] = []
        self._next = self._bucket = 0
        self._open = -1  # the bucket that is being filled
        self._row: Tensor | None = None
        self._add = False

    def begin(self, row: Tensor, *, add: bool = False) -> None:
        """Start a task whose shard is ``row`` [n]; ``add`` sums on top of what is there (a further micro-batch)."""
        self._row, self._add = row, add
        self._ready = [None] * len(self.layout.parameters)
        self._next = self._bucket = 0
        self._open = -1

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While this lasts, a backward pass hands every shared parameter's gradient over as soon as it is complete."""
        handles = []
        try:
            for index, parameter in enumerate(self.layout.parameters):
                parameter.grad = None
                register: Any = parameter.register_post_accumulate_grad_hook
                handles.append(register(self._hook(index)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, index: int) -> Any:
        def arrived(_: Tensor) -> None:
            if self._ready[index] is not None:
                name = self.layout.names[index] if self.layout.names else f"number {index}"
                raise RuntimeError(
                    f"parameter {name} got its gradient twice in one backward pass (reentrant checkpoint?)"
                )
            self._ready[index] = True
            self._advance()

        return arrived

    def give(self, index: int, gradient: Tensor) -> None:
        """A gradient that did not come through ``.grad``."""
        self._ready[index] = gradient
        self._advance()

    def _advance(self) -> None:
        while self._next < len(self._ready) and (found := self._ready[self._next]) is not None:
            index = self._next
            self._next += 1
            parameter = self.layout.parameters[index]
            gradient = parameter.grad if isinstance(found, bool) else found
            self._ready[index] = False
            self._place(index, gradient)
            del gradient, found
            parameter.grad = None

    def _place(self, index: int, gradient: Tensor | None) -> None:
        """Copy parameter ``index`` (None = zeros) to where it belongs; send every bucket that this completes."""
        assert self._row is not None
        flat = None if gradient is None else gradient.detach().reshape(-1)
        if not self._slots:
            place = self._row[self.layout.offsets[index] :][: self.layout.parameters[index].numel()]
            if flat is None:
                place.mul_(1.0 if self._add else 0.0)
            elif self._add:
                place.add_(flat)
            else:
                place.copy_(flat)
            return
        for bucket, at, start, stop in self._pieces[index]:
            if bucket != self._bucket:
                self._send()
            if bucket != self._open:
                self._free(bucket)
                self._open = bucket
            place = self._slots[bucket % len(self._slots)].sent[at : at + stop - start]
            if flat is None:
                place.zero_()
            else:
                place.copy_(flat[start:stop])

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
