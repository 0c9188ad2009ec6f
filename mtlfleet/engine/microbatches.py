"""Micro-batches before the one that a step is taken with: what is kept of them until then.

Three declared ways. M micro-batches, K tasks, P shared parameters, W ranks:

* ``reduce``: each micro-batch's task gradients are exchanged. K * P * M numbers travel, K * P / W are kept. Exact.
* ``local``: task gradients are summed on each rank and exchanged once. K * P numbers travel, K * P are kept. Exact.
* ``first``: the method looks at the first micro-batch; the others get its weights, one pass each, and travel as one
  gradient. Another update than the whole batch's: labelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from mtlfleet.engine.backward import Gradients, Graph
from mtlfleet.engine.collect import Collector, Plan
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Losses, Needs
from mtlfleet.errors import EngineRefused


@dataclass
class Held:
    """Sums over micro-batches: task gradients, the task parameters' own on this rank, losses [K]."""

    plan: Plan
    rows: Tensor  # [K, n] of all ranks, or with ``local`` [K, padded] of this one
    own: Tensor | None
    somewhere: list[bool]
    local: bool
    losses: Losses

    @classmethod
    def first(cls, collector: Collector, graph: Graph, losses: Losses, buffer: Tensor | None, local: bool) -> Held:
        """From the first micro-batch; ``buffer`` is memory for rows [K, n]."""
        plan, tasks = collector.plan, len(graph.reach.tasks)
        own = plan.own.empty() if plan.own is not None else None
        rows = plan.layout.empty(tasks) if local else collector.run(graph, buffer, own)
        found = cls(plan, rows, own, list(collector.somewhere), local, losses)
        if local:
            found._add(collector, graph)
        return found

    def add(self, collector: Collector, graph: Graph) -> None:
        """The task gradients of one more micro-batch."""
        refuse_other_places(self.plan, collector.plan)
        if self.local:
            self._add(collector, graph)
        else:
            self.rows = collector.run(graph, self.rows, self.own, add=True)

    def collect(self, collector: Collector, graph: Graph) -> tuple[Tensor, Tensor | None]:
        """With the last micro-batch: (rows [K, n] of all ranks, the task parameters' sums of this one)."""
        self.add(collector, graph)
        rows = exchanged(self.plan, collector.exchange, self.rows, self.somewhere) if self.local else self.rows
        return rows, self.own

    def _add(self, collector: Collector, graph: Graph) -> None:
        self.somewhere = [one or other for one, other in zip(self.somewhere, collector.somewhere, strict=True)]
        local = _Local(collector.plan, collector.exchange, collector.somewhere)
        for k, gradients in local.each(graph, self.own):
            self.plan.layout.pack_from(0, gradients, self.rows[k])


class _Local(Collector):
    """Task gradients of this rank alone, one after another."""

    def each(self, graph: Graph, own: Tensor | None) -> Iterator[tuple[int, Gradients]]:
        """(k, shared gradients) of every task that has any here; the task parameters' are added to ``own``."""
        shared = self.plan.layout.parameters
        if self.plan.chunk:
            for k, _, gradients in self._chunks(graph, own):
                yield k, gradients
            return
        last = graph.last
        for k, task, root, start, known in graph.roots():
            found: Gradients = ()
            if root is not None:
                inputs = (*shared, *(() if known is not None else graph.reach.own[task]))
                found = torch.autograd.grad(root, inputs, start, retain_graph=task != last, allow_unused=True)
                yield k, found[: len(shared)]
            self._keep(graph, k, found[len(shared) :] if known is None else known, own)


def exchanged(plan: Plan, exchange: Exchange, local: Tensor, somewhere: list[bool]) -> Tensor:
    """Each rank's sums [K, padded] -> this rank's columns [K, n] of the sum over ranks."""
    if exchange.world == 1:
        return local
    if plan.buckets is None:
        return exchange.reduce_rows(local)
    layout = plan.layout
    rows = layout.empty(local.shape[0], of=layout.shard)
    for k, (row, mine) in enumerate(zip(rows, local, strict=True)):
        if somewhere[k]:
            plan.buckets.add(row, layout.views(mine))
    plan.buckets.drain()
    return rows


def refuse_other_places(before: Plan, now: Plan) -> None:
    """Raise EngineRefused, on every rank, when what is shared is no longer what it was for earlier micro-batches."""
    if before is not now:
        raise EngineRefused(
            "the micro-batches of one step do not share the same parameters: sums of them have no meaning",
            notes=["a task or a layer that a later micro-batch is the first to use changes what is shared"],
            help="show every task in the first micro-batch that the engine ever sees; freeze only between steps",
        )


def refuse_accumulation(method: Any, way: str, plain: bool) -> None:
    """Raise EngineRefused where task gradients of micro-batches cannot be added up, or nothing has weights."""
    what = ""
    if not plain:
        what = "several batches a step, approximations and backward='factored' do without them"
    elif method.needs is Needs.REPRESENTATION:
        what = f"method {method.name!r} looks at one batch's representation"
    if what:
        raise EngineRefused(
            "accumulate adds up task gradients, and this engine computes none",
            notes=[what],
            help="leave those options out, or take a method that weighs task gradients",
        )
    if way == "first" and method.needs is Needs.ROWS:
        refuse_without_weights(method.name)


def refuse_without_weights(what: str) -> NoReturn:
    """Raise EngineRefused: there is nothing to give the other micro-batches."""
    raise EngineRefused(
        f"accumulation='first' gives later micro-batches the first one's task weights, and {what!r} has none",
        help="accumulation='local' and 'reduce' are exact and take any method that looks at task gradients",
    )
