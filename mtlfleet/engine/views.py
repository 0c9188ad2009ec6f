"""One step's task gradients over a live graph: what the engine opens and a method looks at."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtlfleet.engine.backward import Gradients, sequential, weighted
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Gram, Losses, Rows, Weights
from mtlfleet.engine.layout import Layout

PIECE = 1_048_576  # numbers: K gradients that fit in this travel together, larger ones task by task
BLOCK = 65_536  # columns of a float64 Gram block: small enough to stay in cache, large enough for a real gemm


class NonFinite(ArithmeticError):
    """A loss or a task gradient is NaN or infinite, on some rank; raised on all of them."""


def block_gram(rows: Tensor) -> Tensor:
    """rows [K, n] -> [K, K] in float64, block of columns after block: float32 sums lose up to 1e-3 at P = 2e7."""
    gram = torch.zeros(rows.shape[0], rows.shape[0], dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], BLOCK):
        block = rows[:, start : start + BLOCK].to(torch.float64)
        gram += block @ block.T
    return gram.cpu()


class StepGradients:
    """TaskGradients of one step. K backwards run when the Gram or the rows are first asked for, never twice."""

    def __init__(
        self,
        graph: Mapping[str, Tensor],
        losses: Losses,
        reach: Reach,
        layouts: tuple[Layout, Layout | None],
        exchange: Exchange,
        heads: str,
    ) -> None:
        self._graph = graph
        self._reach = reach
        self._layout, self._own = layouts
        self._exchange = exchange
        self._heads = heads
        self._rows: Tensor | None = None
        self._own_local: Tensor | None = None  # this rank's, not yet averaged
        self._own_flat: Tensor | None = None
        self._direction: Tensor | None = None
        self.weights: Tensor | None = None
        self.seen_gram: Tensor | None = None
        self.losses = losses

    def gram(self) -> Gram:
        """[K, K]: each rank's float64 partial sum over its columns, then one all-reduce of K * K numbers.

        Task gradients of heads ride along when they are few: one message less.
        """
        if self.seen_gram is None:
            partial = block_gram(self.rows())
            own = self._own_local
            if own is not None and own.numel() <= BLOCK:
                told = self._exchange.total(torch.cat([partial.flatten(), own.cpu().to(torch.float64)]))
                self._own_flat = (told[partial.numel() :] / self._exchange.world).to(own.dtype).to(own.device)
                self._own_local = None
                self.seen_gram = told[: partial.numel()].view_as(partial)
            else:
                self.seen_gram = self._exchange.total(partial)
            if not torch.isfinite(self.seen_gram).all():
                raise NonFinite("a task gradient is not finite")
        return Gram(self.seen_gram)

    def rows(self) -> Rows:
        """[K, n]: K backwards; a task's flat gradient is exchanged before the next one is taken, unless all are
        small."""
        if self._rows is None:
            self._collect()
        assert self._rows is not None
        return Rows(self._rows)

    @property
    def columns(self) -> range:
        first = self._exchange.rank * self._layout.shard
        return range(first, first + self._layout.shard)

    def _collect(self) -> None:
        tasks, layout = len(self._reach.tasks), self._layout
        together = tasks * layout.padded <= PIECE
        flat = layout.empty()
        rows = flat.new_zeros(tasks, layout.padded if together else layout.shard)
        own_flat = self._own.empty() if self._own is not None else None
        cursor = 0

        def deliver(k: int, _task: str, shared: Gradients, own: Gradients) -> None:
            nonlocal cursor
            if together:
                layout.pack(shared, rows[k])
            else:
                rows[k] = self._exchange.reduce(layout.pack(shared, flat))
            if self._own is not None and own_flat is not None:
                self._own.pack_from(cursor, own, own_flat)
            cursor += len(own)

        sequential(self._graph, self._reach, deliver)
        self._rows = self._exchange.reduce_rows(rows) if together else rows
        self._own_local = own_flat

    def _average_own(self) -> None:
        """Mean over ranks of the task parameters' gradients, if the Gram's message did not carry them."""
        if self._own_local is not None:
            self._own_flat = self._exchange.mean(self._own_local)
            self._own_local = None

    def apply(self, weights: Weights) -> None:
        """From the rows if they were asked for, else by one ordinary backward and one all-reduce."""
        self.weights = weights.detach().to(torch.float64)
        if self._rows is not None:
            combined = torch.mv(self._rows.t(), self.weights.to(self._rows.dtype).to(self._rows.device))
            self._direction = self._exchange.gather(combined)
            if self._heads == "weighted":
                self._average_own()
                self._scale_own()
            return
        by_task = {task: float(w) for task, w in zip(self._reach.tasks, self.weights, strict=True)}
        shared, own = weighted(self._graph, self._reach, by_task, self._heads)
        flat = self._layout.pack(shared, self._layout.empty())
        if self._own is None:
            self._direction = self._exchange.mean(flat)
            return
        joined = self._exchange.mean(torch.cat([flat, self._own.pack(own, self._own.empty()).to(flat.dtype)]))
        self._direction, self._own_flat = joined[: flat.numel()], joined[flat.numel() :]

    def _scale_own(self) -> None:
        if self._own is None or self._own_flat is None or self.weights is None:
            return
        cursor = 0
        for k, task in enumerate(self._reach.tasks):
            size = sum(parameter.numel() for parameter in self._reach.own[task])
            self._own_flat[cursor : cursor + size] *= float(self.weights[k])
            cursor += size

    def write(self, direction: Tensor) -> None:
        """This rank's columns [n] of the shared gradient, gathered from all ranks."""
        self._direction = self._exchange.gather(direction)

    def finish(self) -> Tensor:
        """Set ``.grad`` of shared and task parameters; gives the shared gradient [padded].

        Raises NonFinite when anything that would be written is not finite; then nothing is written.
        """
        if self._direction is None:
            raise RuntimeError("the method wrote no gradient: it must call apply or write exactly once")
        self._average_own()
        finite = torch.isfinite(self._direction).all()
        if self._own_flat is not None:
            finite = finite & torch.isfinite(self._own_flat).all()
        if not bool(finite):
            raise NonFinite("the combined gradient is not finite")
        self._layout.write(self._direction)
        if self._own is not None and self._own_flat is not None:
            self._own.write(self._own_flat)
        return self._direction
