"""From losses to what a method looks at: the views of one step, over memory that steps share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mtlfleet.engine.accumulation import MicroBatches
from mtlfleet.engine.agreement import Agreement
from mtlfleet.engine.approximate import SketchGradients, UpperBoundGradients
from mtlfleet.engine.backward import Graph
from mtlfleet.engine.collect import Collector, Whole
from mtlfleet.engine.compiled import compiled_parts, kept_graphs, refuse_overwritten
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.factored import FactoredGradients
from mtlfleet.engine.gradients import Losses, Needs, Step
from mtlfleet.engine.representation import Shown
from mtlfleet.engine.scaling import LossScale
from mtlfleet.engine.views import StepGradients
from mtlfleet.engine.watching import Effect, Watch, effect
from mtlfleet.errors import EngineRefused

LIGHT = 1_048_576  # numbers: graphs up to this size are kept until the next forward pass is through

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
        self._again = False  # the last step's rows came whole, and nothing had changed
        self._ahead: Whole | None = None

    def say(self, losses: Mapping[str, Tensor], said: Tensor, changed: bool) -> Tensor:
        """The mean over ranks of what they say before a step.

        A tiny model's rows travel along where those of the last step came whole: then the K passes come first, over the
        graph as all ranks know it. A rank that knows better (``changed``) has only words to send; whoever reads them
        takes the passes again, so the graph is kept, and for that must be light.
        """
        agreed, self._ahead = self._agreed, None
        if self._again and agreed.contest is None and agreed.factors is None:
            with kept_graphs(), agreed.unheard():
                graph = None if changed else self._graph(losses, 0, keep=True)
                plan, tasks = agreed.plan, agreed.tasks
                found = Collector(plan, self._exchange, ()).whole(len(tasks), graph, said)
            if found is not None and found.told is not None:
                self._ahead = None if float(found.told[-1]) else found
                return found.told
        return self._exchange.mean(said)

    def speaker(self, losses: Mapping[str, Tensor], ahead: bool) -> Callable[[Tensor, bool], Tensor]:
        """How the words before a step go round: with the rows ``ahead`` of it where that can be, else alone."""
        if ahead:
            return lambda said, changed: self.say(losses, said, changed)
        return lambda said, _: self._exchange.mean(said)

    def _graph(self, losses: Mapping[str, Tensor], place: int, *, keep: bool = False) -> Graph:
        """Of the batch at ``place``."""
        agreed = self._agreed
        z = self._shown.z[place] if agreed.behind else None
        return Graph(losses, agreed.reach, self._exchange.world, self._scale.scale, z, agreed.width, keep)

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
            graph = self._graph(losses, place)
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
        opened[-1].lends = self._method.needs is Needs.GRAM and len(batches) == 1
        opened[-1].ahead, self._ahead = self._ahead, None
        opened[-1].outcome.keeps_shard = self.keeps_shard
        return opened[-1]

    def watch(
        self,
        batches: Sequence[Mapping[str, Tensor]],
        somewhere: Sequence[list[bool]],
        watch: Watch | None,
    ) -> Tensor | None:
        """Task gradients [K, n] of the last batch, by K passes that leave its graph, for a method that takes none.

        None where nobody asked, and where the method's own way tells. Raises EngineRefused where there are none to be
        had: of micro-batches, or under an approximation.
        """
        if watch != "passes" or self._method.needs in (Needs.GRAM, Needs.ROWS):
            return None
        if self._approximate is not None or self._micro.open:
            raise EngineRefused(
                f"watch='passes' takes one whole batch's exact task gradients beside method {self._method.name!r}",
                notes=[f"found {'micro-batches' if self._micro.open else f'approximate={self._approximate!r}'}"],
                help="leave `watch` out in such steps",
            )
        graph = self._graph(batches[-1], len(batches) - 1, keep=True)
        self._trust(graph, True, several=True)
        with kept_graphs(), self._agreed.unheard():
            rows = Collector(self._agreed.plan, self._exchange, somewhere[-1]).run(graph, None, None)
        return rows if graph.scale == 1.0 else rows.div_(graph.scale)

    def effect(self, view: View, rows: Tensor | None) -> Effect | None:
        """What was written did to each task; None where the Gram and the weights tell, or nobody has the rows."""
        if isinstance(view, StepGradients):
            if view.seen_gram is not None and view.weights is not None and len(view.batches) == 1:
                return None
            rows = view.held if rows is None else rows
        return None if rows is None else effect(rows, self._agreed.plan.layout, self._exchange, view.outcome.shard)

    def _trust(self, graph: Graph, last: bool, *, several: bool = False) -> None:
        """Try compiled parts out where several passes will run through them; once, and when graphs have changed."""
        several |= self._method.needs in (Needs.GRAM, Needs.ROWS) and self._approximate != "ub"
        several |= not last and self._micro.way != "first"
        if not several or graph.reach is self._looked_at:
            return
        self._looked_at = graph.reach
        fresh = compiled_parts(graph.losses.values()) - self._trusted
        if fresh:
            with kept_graphs(), self._agreed.unheard():
                refuse_overwritten(graph, graph.reach.shared)
            self._trusted |= fresh

    def keep(self, view: View) -> None:
        """The rows' memory serves the next step, where no method can have kept it."""
        self._rows = view.buffer if self._method.needs is Needs.GRAM else None
        whole = isinstance(view, StepGradients) and view.came_whole
        self._again = whole and self._agreed.settled and self._agreed.size <= LIGHT
