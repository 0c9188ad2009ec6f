"""One step's task gradients over a live graph: what the engine opens and a method looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlfleet.engine.backward import Graph
from mtlfleet.engine.collect import Collector, Plan, Whole
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Gram, Losses, Rows, Weights
from mtlfleet.engine.microbatches import Held
from mtlfleet.engine.outcome import NonFinite, Outcome
from mtlfleet.engine.products import block_gram, combine, group_grams
from mtlfleet.engine.representation import Representation, refuse_without

RIDES = 65_536  # gradients of task parameters that fit in the Gram's message

__all__ = ["NonFinite", "StepGradients", "block_gram"]


class StepGradients:
    """TaskGradients of one step. K backwards run when the Gram or the rows are first asked for, never twice."""

    _joins = True  # a tiny model's rows may come whole
    lends = False  # no method keeps the rows: their memory serves the messages and the next step

    def __init__(
        self,
        graph: Graph,
        losses: Losses,
        plan: Plan,
        exchange: Exchange,
        heads: str,
        somewhere: Sequence[bool],
        buffer: Tensor | None = None,
        behind: bool = False,
        held: Held | None = None,
    ) -> None:
        self._graph = graph
        self._plan = plan
        self._exchange = exchange
        self._heads = heads
        self._collector = Collector(plan, exchange, somewhere)
        self.buffer = buffer
        self.batches: tuple[StepGradients, ...] = (self,)
        self._behind = behind  # one tensor is known, on all ranks, behind which all that is shared lies
        self._representation: Representation | None = None
        self._rows: Tensor | None = None
        self._whole: Tensor | None = None  # [K, padded], of a tiny model
        self.ahead: Whole | None = None  # the same, when it came with what ranks agree on before a step
        self._seen = False  # a method holds the rows: they are not written to
        self.outcome = self._out = Outcome(graph, plan, exchange, heads)
        self.weights: Tensor | None = None
        self.seen_gram: Tensor | None = None
        self._held = held
        self.losses = losses if held is None else Losses(losses + held.losses)

    def gram(self) -> Gram:
        """[K, K]: each rank's float64 partial sum over its columns, then one all-reduce of K * K numbers.

        Task gradients of heads ride along when they are few: one message less.
        """
        if (
            self.seen_gram is None
            and self._rows is None
            and self._joins
            and self._held is None
            and not self._out.keeps_shard
        ):
            self._take_whole()
        if self.seen_gram is None:
            partial = block_gram(self._collected())
            self.seen_gram = self._agree(partial)
        return Gram(self.seen_gram)

    def _take_whole(self) -> None:
        """Of a tiny model every rank gets all rows at once; nothing is left to agree on."""
        found = self.ahead or self._collector.whole(len(self._graph.reach.tasks), self._graph)
        if found is None:
            return
        self._whole, self._out.own, _ = found
        n = self._plan.layout.shard
        self._rows = self._whole[:, self._exchange.rank * n : (self._exchange.rank + 1) * n]
        gram = block_gram(self._whole)
        if not torch.isfinite(gram).all():
            raise NonFinite("a task gradient is not finite")
        self.seen_gram = gram / self._graph.scale**2

    @property
    def held(self) -> Tensor | None:
        """The rows [K, n] as a method had them; None where it did not ask, and they may be combined by now."""
        return self._rows if self._seen else None

    @property
    def came_whole(self) -> bool:
        """Whether every rank got all rows."""
        return self._whole is not None

    @property
    def way(self) -> str:
        """How the gradients were computed, in a word or two."""
        if self._representation is not None and self._representation.used:
            return "from the representation"
        if self._rows is None:
            return "weighted"
        if self._plan.chunk:
            return f"batched, {self._plan.chunk} tasks a pass"
        return "sequential" if self._graph.z is None else "heads first"

    @property
    def representation(self) -> Representation:
        """The gradients at the representation. Raises EngineRefused when the model shows none that all tasks share."""
        if self._representation is None:
            refuse_without(self._behind, "the method")
            self._representation = Representation(self._graph, self._exchange, self._out)
        return self._representation

    def cross_gram(self, first: int, second: int) -> Tensor:
        """[K, K]: products of the task gradients of batch ``first`` (rows) with those of batch ``second`` (columns)."""
        one, two = self.batches[first], self.batches[second]
        return self._agree(block_gram(one.rows(), two.rows()), scale=1.0)

    def grams(self, by: str = "tensor") -> tuple[tuple[str, ...], Tensor]:
        """(names [L], [L, K, K]): the Gram of each parameter (``"tensor"``) or of each module (``"layer"``).

        They add up to the whole model's; all of them travel in one all-reduce.
        """
        names, stretches = self._groups(by)
        found = self._agree(group_grams(self._collected(), stretches))
        if self.seen_gram is None:
            self.seen_gram = found.sum(0)
        return names, found

    def _groups(self, by: str) -> tuple[tuple[str, ...], list[list[tuple[int, int]]]]:
        if by not in ("tensor", "layer"):
            raise ValueError(f"groups are by 'tensor' or 'layer'; found {by!r}")
        layout = self._plan.layout
        of = [name if by == "tensor" else name.rpartition(".")[0] for name in layout.names]
        names = tuple(dict.fromkeys(reversed(of)))
        found: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
        for index, _, column, size in layout.columns(self._exchange.rank):
            found[of[index]].append((column, size))
        return names, [found[name] for name in names]

    def _agree(self, partial: Tensor, scale: float | None = None) -> Tensor:
        """Sum over ranks, unscaled. Raises NonFinite on all of them when it is not finite."""
        own = self._out.own_local
        if own is not None and own.numel() <= RIDES:
            told = self._exchange.total(torch.cat([partial.flatten(), own.cpu().to(torch.float64)]))
            self._out.own = told[partial.numel() :].to(own.dtype).to(own.device)
            self._out.own_local = None
            found = told[: partial.numel()].view_as(partial)
        else:
            found = self._exchange.total(partial)
        if not torch.isfinite(found).all():
            raise NonFinite("a task gradient is not finite")
        carried = scale if scale is not None else 1.0 if self._seen else self._graph.scale
        return found if carried == 1.0 else found / carried**2

    def rows(self) -> Rows:
        """[K, n]: this rank's columns. They are the method's to read during this step; what it keeps, it copies."""
        if not self._seen:
            found = self._collected()
            if self._graph.scale != 1.0:
                found.mul_(1.0 / self._graph.scale)
            self._seen = True
        return Rows(self._collected())

    @property
    def columns(self) -> Tensor:
        """int64 [n]: where in the flattened shared gradient each column of the rows lies; padding beyond its end."""
        layout = self._plan.layout
        places = torch.arange(layout.size, layout.size + layout.shard)
        for index, start, column, size in layout.columns(self._exchange.rank):
            # The layout runs backwards through the model; places are counted in the model's own order.
            first = layout.size - layout.offsets[index] - layout.parameters[index].numel() + start
            places[column : column + size] = torch.arange(first, first + size)
        return places

    def _collected(self) -> Tensor:
        """The rows as they came, times the loss scale unless a method has asked for them."""
        if self._rows is None:
            if self._held is not None:
                self._rows, own = self._held.collect(self._collector, self._graph)
            else:
                own = self._plan.own.empty() if self._plan.own is not None else None
                room = self.buffer
                if room is None and self.lends and self._plan.buckets is not None:
                    room = self._plan.buckets.rows(len(self._graph.reach.tasks))
                self._rows = self._collector.run(self._graph, room, own)
            self.buffer = self._rows
            self._out.own_local = own
        return self._rows

    def hold(self, local: bool) -> Held:
        """Keep what there is so far for the next micro-batch, this one's gradients included."""
        if self._held is None:
            self._held = Held.first(self._collector, self._graph, self.losses, self.buffer, local)
        else:
            self._held.add(self._collector, self._graph)
        self._held.losses = self.losses
        return self._held

    def apply(self, weights: Weights) -> None:
        """From the rows if they were asked for, else by one ordinary backward and one all-reduce."""
        self.weights = weights.detach().to(torch.float64)
        if self._held is not None:
            self._collected()
        if self._rows is None:
            by_task = {task: float(w) for task, w in zip(self._graph.reach.tasks, self.weights, strict=True)}
            self._out.backward(by_task)
            return
        told = self.weights if self._seen else self.weights / self._graph.scale
        if self._whole is not None and not self._seen:
            self._out.take(combine(self._whole, told, in_place=True))
        else:
            room = None if self._seen or self._whole is not None else _behind_first(self._rows)
            self._out.gather(combine(self._rows, told, in_place=not self._seen), room)
        if self._heads == "weighted":
            self._out.scale_own(self.weights)
        if self.seen_gram is not None:
            self._out.norm = float((self.weights @ self.seen_gram @ self.weights).clamp_min(0).sqrt())

    def apply_mean(self, weights: Weights) -> None:
        """The mean over the step's batches; task parameters see the last one."""
        self.weights = weights.detach().to(torch.float64)
        told = self.weights / len(self.batches)
        self._out.gather(torch.stack([combine(b.rows(), told, in_place=False) for b in self.batches]).sum(0))
        if self._heads == "weighted":
            self._out.scale_own(self.weights)

    def scale_own(self, factors: Weights) -> None:
        """Task parameters' gradients, task by task. Raises EngineRefused after a single pass for all tasks."""
        self._out.scale_own(factors)

    def apply_grouped(self, weights: Tensor, by: str = "tensor") -> None:
        """weights [L, K], in the order of ``grams(by)``: each group of parameters gets its own combination."""
        _, stretches = self._groups(by)
        rows = self.rows()
        direction = rows.new_zeros(rows.shape[1])
        for mine, group in zip(weights, stretches, strict=True):
            for start, size in group:
                direction[start : start + size] = combine(rows[:, start : start + size], mine, in_place=False)
        self.write(direction)

    def total(self, partial: Tensor) -> Tensor:
        """The sum over ranks. Raises NonFinite on all of them when it is not finite."""
        found = self._exchange.total(partial.clone())
        if not torch.isfinite(found).all():
            raise NonFinite("a sum over this step's task gradients is not finite")
        return found

    def write(self, direction: Tensor) -> None:
        """This rank's columns [n] of the shared gradient, gathered from all ranks."""
        self._out.gather(direction)

    def finish(self) -> float:
        """Set ``.grad`` of shared and task parameters; gives the norm of the shared gradient.

        Raises NonFinite when anything that would be written is not finite; then nothing is written.
        """
        if self._representation is not None and self.weights is None:
            self.weights = self._representation.weights
        return self._out.finish()


def _behind_first(rows: Tensor) -> Tensor:
    """The rows' memory but for the first: once they are combined there, it takes the direction."""
    n, start = rows.shape[1], rows.storage_offset()
    numbers = rows.untyped_storage().nbytes() // rows.element_size()
    return rows.as_strided((numbers - start - n,), (1,), start + n)
