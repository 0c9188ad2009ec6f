"""From losses to what a method looks at: the views of one step, over memory that steps share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mtlfleet.engine.accumulation import MicroBatches
from mtlfleet.engine.agreement import Agreement
from mtlfleet.engine.approximate import SketchGradients, UpperBoundGradients
from mtlfleet.engine.backward import Graph
from mtlfleet.engine.compiled import compiled_parts, kept_graphs, refuse_overwritten
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.factored import FactoredGradients
from mtlfleet.engine.gradients import Losses, Needs, Step
from mtlfleet.engine.representation import Shown
from mtlfleet.engine.scaling import LossScale
from mtlfleet.engine.views import StepGradients

View = StepGradients | FactoredGradients


class Opening:
    """Opens views; ``keeps_shard``: what they decide stays in the ranks' shards."""

    keeps_shard = False

    def __init__(
        self,
        agreed: Agreement,
        shown: Shown,
        exchange: Exchange,
        method: Any,
        scale: LossScale,
        micro: MicroBatches,
        approximate: str | None,
    ) -> None:
        self._agreed = agreed
        self._shown = shown
        self._exchange = exchange
        self._method = method
        self._scale = scale
        self._micro = micro
        self._approximate = approximate
        self._rows: Tensor | None = None
        self._looked_at: Reach | None = None
        self._trusted: set[type] = set()  # compiled parts that give the same gradient twice

    def open(
        self,
        batches: Sequence[Mapping[str, Tensor]],
        told: Sequence[Losses],
        somewhere: Sequence[list[bool]],
        at: Step,
        *,
        last: bool = True,
    ) -> View:
        """The view of the last batch, which knows the others. ``last``: no micro-batch follows."""
        agreed, heads = self._agreed, self._method.heads
        if self._rows is not None and not agreed.holds(self._rows):
            self._rows = None
        opened: list[StepGradients] = []
        kind = {None: self._micro.kind(last), "ub": UpperBoundGradients, "sketch": SketchGradients}[self._approximate]
        for place, losses in enumerate(batches):
            z = self._shown.z[place] if agreed.behind else None
            graph = Graph(losses, agreed.reach, self._exchange.world, self._scale.scale, z, agreed.width)
            self._trust(graph, last)
            if agreed.factors is not None:
                view = FactoredGradients(graph, told[0], agreed.factors, agreed.calls, self._exchange, heads)
                view.outcome.keeps_shard = self.keeps_shard
                return view
            rows = self._rows if place == len(batches) - 1 else None
            where, held, behind = somewhere[place], self._micro.held, agreed.behind
            opened.append(kind(graph, told[place], agreed.plan, self._exchange, heads, where, rows, behind, held))
            if isinstance(opened[-1], SketchGradients):
                opened[-1].key = (at.seed, at.number)
        opened[-1].batches = tuple(opened)
        opened[-1].outcome.keeps_shard = self.keeps_shard
        return opened[-1]

    def _trust(self, graph: Graph, last: bool) -> None:
        """Try compiled parts out where several passes will run through them; once, and when graphs have changed."""
        several = self._method.needs in (Needs.GRAM, Needs.ROWS) and self._approximate != "ub"
        several |= not last and self._micro.way != "first"
        if not several or graph.reach is self._looked_at:
            return
        self._looked_at = graph.reach
        fresh = compiled_parts(graph.losses.values()) - self._trusted
        if fresh:
            self._agreed.record(False)  # layers called again by checkpoints
            with kept_graphs():
                refuse_overwritten(graph, graph.reach.shared)
            self._agreed.record(True)
            self._trusted |= fresh

    def keep(self, view: View) -> None:
        """The rows' memory serves the next step, where no method can have kept it."""
        self._rows = view.buffer if self._method.needs is Needs.GRAM else None
