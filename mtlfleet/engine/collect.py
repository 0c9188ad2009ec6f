"""From graphs to rows: K passes, each task's gradient on its way to the ranks' shards before the next is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mtlfleet.engine.backward import Gradients, Graph, batched
from mtlfleet.engine.buckets import Buckets
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.layout import Layout, bucket_size

TOGETHER = 1_048_576  # numbers: K gradients that fit in this travel in one message, larger ones bucket by bucket
WHOLE = 131_072  # numbers: K gradients that fit in this are summed whole on every rank, as one message saves two
ALONE = 2_097_152  # numbers: one rank's gradients up to this size are taken whole, then copied in one call
TINY = 65_536  # numbers: models this small send four times as many together or whole: a message outweighs its bytes


@dataclass
class Plan:
    """Where the numbers of one shape of graph go: the shared parameters' layout and the task parameters'."""

    layout: Layout
    own: Layout | None
    buckets: Buckets | None  # None: small, all tasks in one message; or one rank and no large model
    chunk: int = 0  # tasks per batched pass; 0: one pass per task

    @classmethod
    def of(cls, reach: Reach, exchange: Exchange, chunk: int = 0, *, tasks: int | None = None) -> Plan:
        """In the reverse of the model's order, which is about the order in which backward produces gradients.

        ``tasks``: how many gradients travel, if not one for each task.
        """
        parameters, names = reach.shared[::-1], reach.shared_names[::-1]
        own = Layout.of(reach.own_parameters, 1) if reach.own_parameters else None
        layout = Layout.of(parameters, exchange.world, names=names)
        count = len(reach.tasks) if tasks is None else tasks
        if count * layout.padded <= _most(TOGETHER, layout) or (exchange.world == 1 and layout.size <= ALONE):
            return cls(layout, own, None, chunk)
        layout = Layout.of(parameters, exchange.world, names=names, bucket=bucket_size(layout.size, exchange.world))
        return cls(layout, own, Buckets(layout, exchange, own.size if own is not None else 0), chunk)

    def fits(self, reach: Reach) -> bool:
        """Whether the numbers of this graph go to the same places."""
        own = self.own.parameters if self.own is not None else ()
        same = [
            p
            for p, q in zip((*self.layout.parameters[::-1], *own), (*reach.shared, *reach.own_parameters), strict=False)
            if p is q
        ]
        return len(same) == len(self.layout.parameters) + len(own) == len(reach.shared) + len(reach.own_parameters)


def _most(numbers: int, layout: Layout) -> int:
    """A limit, four times as wide for tiny models."""
    return numbers * (4 if layout.padded <= TINY else 1)


class Whole(NamedTuple):
    """What every rank has of a tiny model's step after one message."""

    rows: Tensor  # [K, padded], averaged
    own: Tensor | None  # the task parameters' gradients, averaged
    told: Tensor | None  # float64, the mean of what ranks said along with it


class Collector:
    """Fills rows [K, n] with this rank's columns of the averaged task gradients; ``own`` with the heads' sums."""

    def __init__(self, plan: Plan, exchange: Exchange, somewhere: Sequence[bool]) -> None:
        self.plan = plan
        self.exchange = exchange
        self.somewhere = somewhere  # task k has a loss on some rank: a task that has none anywhere sends nothing

    def run(self, graph: Graph, rows: Tensor | None, own: Tensor | None, *, add: bool = False) -> Tensor:
        """``rows`` is overwritten, or with ``add`` summed up; None allocates. Gives the rows."""
        if rows is None:
            rows = self.plan.layout.empty(len(graph.reach.tasks), of=self.plan.layout.shard)
        if self.plan.buckets is None:
            if not add and rows.numel() > _most(TOGETHER, self.plan.layout):  # one rank: memory that serves again
                return self._fill(graph, rows, own)
            found = self._together(graph, own)
            return rows.add_(found) if add else found
        if self.plan.chunk:
            self._in_chunks(graph, self.plan.buckets, rows, own, add)
        else:
            self._one_by_one(graph, self.plan.buckets, rows, own, add)
        self.plan.buckets.drain()
        return rows

    def _keep(self, graph: Graph, k: int, gradients: Gradients, own: Tensor | None) -> None:
        if own is not None and self.plan.own is not None:
            cursor = sum(len(graph.reach.own[task]) for task in graph.reach.tasks[:k])
            self.plan.own.pack_from(cursor, gradients, own)

    def whole(self, tasks: int, graph: Graph | None, said: Tensor | None = None) -> Whole | None:
        """Tiny: all rows, on every rank; None if not so tiny.

        One message instead of an exchange, the Gram's and a gathering: their number is what such a step costs. ``said``
        [2 * tasks + 1] float64 is averaged along with it; without a ``graph`` this rank has nothing else to send. The
        message is as long without words, so that no sum is taken in another order.
        """
        layout, own = self.plan.layout, self.plan.own
        size, beside = tasks * layout.padded, own.size if own is not None else 0
        if self.exchange.world == 1 or self.exchange.wire is not None or self.plan.buckets is not None:
            return None
        if size + beside > _most(WHOLE, layout) or (own is not None and own.dtype() != layout.dtype()):
            return None
        message = layout.empty(of=size + beside + 2 * self.exchange.world * (2 * tasks + 1))
        rows, heads, tail = message.split_with_sizes([size, beside, message.numel() - size - beside])
        if graph is not None:
            self._fill(graph, rows.view(tasks, -1), heads if own is not None else None)
        words = tail.view(self.exchange.world, 2, -1)
        if said is not None:
            # Each rank has a place of its own, in two parts: sums with zeros lose nothing of a float64.
            words[self.exchange.rank, 0] = said
            rest = said - words[self.exchange.rank, 0].cpu().to(torch.float64)
            words[self.exchange.rank, 1] = rest.nan_to_num(0.0, 0.0, 0.0)
        message = self.exchange.total(message)
        told = None
        if said is not None:
            told = message[size + beside :].view_as(words).cpu().to(torch.float64).sum(1).sum(0) / self.exchange.world
        rows, heads = message[:size].view(tasks, -1), message[size : size + beside]
        return Whole(rows, heads if own is not None else None, told)

    def _together(self, graph: Graph, own: Tensor | None) -> Tensor:
        """Small: every task into its row, then one exchange of all rows."""
        rows = self.plan.layout.empty(len(graph.reach.tasks))
        return self.exchange.reduce_rows(self._fill(graph, rows, own))

    def _fill(self, graph: Graph, rows: Tensor, own: Tensor | None) -> Tensor:
        """This rank's task gradients into ``rows`` [K, padded], all of them overwritten."""
        layout = self.plan.layout
        if self.plan.chunk:
            rows.zero_()  # tasks that are absent here give none
            for k, _, gradients in self._chunks(graph, own):
                layout.pack(gradients, rows[k])
            return rows
        last = graph.last
        mine: list[Tensor | None] = []
        for k, task, root, start, known in graph.roots(straight=True):
            theirs = graph.reach.own[task]
            if root is None:
                rows[k].zero_()
                mine += known or [None] * len(theirs)
                continue
            inputs = (*layout.parameters, *(theirs if known is None else ()))
            found = torch.autograd.grad(root, inputs, start, retain_graph=task != last, allow_unused=True)
            layout.pack(found[: len(layout.parameters)], rows[k])
            mine += found[len(layout.parameters) :] if known is None else known
            del found  # its memory is the next pass's
        self._keep(graph, 0, mine, own)
        return rows

    def _chunks(self, graph: Graph, own: Tensor | None) -> Iterator[tuple[int, str, Gradients]]:
        """(k, task, shared gradients) from batched passes; own gradients kept on the way."""
        layout = self.plan.layout
        mine = () if graph.z is not None else graph.reach.own_parameters
        for k, task, gradients in batched(graph, (*layout.parameters, *mine), self.plan.chunk):
            if graph.z is not None:
                self._keep(graph, k, graph.heads()[task][1], own)
            elif own is not None and self.plan.own is not None:
                self.plan.own.pack_from(0, gradients[len(layout.parameters) :], own)
            yield k, task, gradients[: len(layout.parameters)]

    def _in_chunks(self, graph: Graph, buckets: Buckets, rows: Tensor, own: Tensor | None, add: bool) -> None:
        upto = 0
        for k, _, gradients in self._chunks(graph, own):
            # Every rank sends task after task: what is absent here is sent as zeros in its turn.
            for missing in range(upto, k):
                self._absent(buckets, rows, missing, add)
            buckets.add(rows[k], gradients, add=add)
            upto = k + 1
        for missing in range(upto, len(graph.reach.tasks)):
            self._absent(buckets, rows, missing, add)

    def _absent(self, buckets: Buckets, rows: Tensor, k: int, add: bool) -> None:
        if self.somewhere[k]:
            buckets.add(rows[k], (), add=add)
        elif not add:
            rows[k].zero_()

    def _one_by_one(self, graph: Graph, buckets: Buckets, rows: Tensor, own: Tensor | None, add: bool) -> None:
        last = graph.last
        parameters = self.plan.layout.parameters
        with buckets.hooked():
            for k, task, root, start, known in graph.roots():
                if root is None:
                    self._keep(graph, k, known or (), own)
                    self._absent(buckets, rows, k, add)
                    continue
                mine = () if known is not None else graph.reach.own[task]
                for parameter in mine:
                    parameter.grad = None
                buckets.begin(rows[k], add=add)
                torch.autograd.backward(root, start, retain_graph=task != last, inputs=[*parameters, *mine])
                buckets.end()
                self._keep(graph, k, [p.grad for p in mine] if known is None else known, own)
                for parameter in mine:
                    parameter.grad = None
