"""What a method decided, on its way into ``.grad``: gathered from the ranks' shards, or one weighted backward."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mtlfleet.engine.backward import Graph, weighted
from mtlfleet.engine.buckets import Buckets
from mtlfleet.engine.collect import Plan
from mtlfleet.engine.direction import Direction
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.exchange import Exchange
from mtlfleet.errors import EngineRefused

SURE = 1e37  # a norm below this has no number in it that float32 cannot hold


class NonFinite(ArithmeticError):
    """A loss or a task gradient is NaN or infinite, on some rank; raised on all of them."""


def gathered(plan: Plan, exchange: Exchange, shard: Tensor, room: Tensor | None = None) -> Tensor:
    """Every rank's n columns -> [padded] in the layout's order; each bucket goes straight to its place.

    ``room``: memory that is free for it, if it is large enough.
    """
    if plan.buckets is None or exchange.world == 1:
        return exchange.gather(shard)
    layout = plan.layout
    fits = room is not None and room.numel() >= layout.padded
    flat = room[: layout.padded] if room is not None and fits else plan.buckets.flat
    shard, works = shard.contiguous(), []
    for bucket in range(layout.buckets):
        first, last = layout.span(bucket)
        mine = shard[first // layout.world : last // layout.world]
        works.append(exchange.post_gather(mine, flat[first:last]))
    for work in works:
        work.wait()
    return flat


def scale_by_task(own: Tensor, weights: Tensor, reach: Reach) -> None:
    """Task parameters' gradients, task after task, times their task's weight; in place."""
    cursor = 0
    for k, task in enumerate(reach.tasks):
        size = sum(parameter.numel() for parameter in reach.own[task])
        own[cursor : cursor + size] *= float(weights[k])
        cursor += size


class Outcome:
    """Shared direction and task parameters' gradients of one step."""

    def __init__(self, graph: Graph, plan: Plan, exchange: Exchange, heads: str) -> None:
        self._graph = graph
        self._plan = plan
        self._exchange = exchange
        self._heads = heads
        self._flat: Tensor | None = None  # [padded]
        self._direct: list[Tensor] | None = None  # one process, one backward: gradients as autograd gave them
        self.own_local: Tensor | None = None  # this rank's sum, times the loss scale
        self.own: Tensor | None = None  # averaged, times the loss scale
        self.norm: float | None = None
        self.keeps_shard = False  # the direction stays in the ranks' shards: a sharded optimizer steps on them
        self.shard: Tensor | None = None  # [n]
        self._written = False  # the shared gradients are in place
        self._scale = 1.0  # what is still to be divided out of the direction

    def gather(self, shard: Tensor, room: Tensor | None = None) -> None:
        """This rank's n columns -> the whole direction, unless it is to stay in shards; ``room``: see ``gathered``."""
        if self.keeps_shard:
            self.shard = shard
        else:
            self._flat = gathered(self._plan, self._exchange, shard, room)

    def take(self, flat: Tensor) -> None:
        """The whole direction [padded], which every rank has."""
        self._flat = flat

    def scale_own(self, weights: Tensor) -> None:
        """Task parameters' gradients times their task's weight. Raises EngineRefused where they came in one pass."""
        self._average_own()
        if self.own is None and self._plan.own is not None:
            raise EngineRefused(
                "the method scales task parameters' gradients, which were computed in one pass for all tasks",
                help="leave `approximate` out",
            )
        if self.own is not None:
            scale_by_task(self.own, weights, self._graph.reach)

    def _average_own(self) -> None:
        """Mean over ranks of the task parameters' gradients, if the Gram's message did not carry them."""
        if self.own_local is not None:
            self.own = self._exchange.total(self.own_local)
            self.own_local = None

    def backward(self, weights: Mapping[str, float]) -> None:
        """One pass of sum_k weights[k] * loss_k, averaged over ranks."""
        total, plain = weighted(self._graph, weights, self._heads)
        self._pass(total, None if total is None else self._graph.start(total), plain, self._graph.reach.own_parameters)

    def from_representation(self, cotangent: Tensor, weights: Tensor | None, mine: Tensor | None = None) -> None:
        """One pass that starts at the representation; the heads' gradients are there already. ``mine`` [K]: their
        factors, instead of the weights or one."""
        if self._plan.own is not None:
            heads, reach = self._graph.heads() if self._graph.z is not None else {}, self._graph.reach
            absent = {task: [None] * len(mine) for task, mine in reach.own.items() if task not in heads}
            found = [g for task in reach.tasks for g in (heads[task][1] if task in heads else absent[task])]
            self.own_local = self._plan.own.pack(found, self._plan.own.empty())
        self._pass(self._graph.z, cotangent * self._graph.scale, None, ())
        if mine is None and self._heads == "weighted":
            mine = weights
        if mine is not None:
            self.scale_own(mine)

    def _pass(
        self, root: Tensor | None, start: Tensor | None, plain: Tensor | None, mine: Sequence[nn.Parameter]
    ) -> None:
        """Gradients of all shared parameters and of ``mine``, averaged over ranks."""
        self._scale = self._graph.scale
        layout = self._plan.layout
        if self._exchange.world > 1 and self._plan.buckets is not None:
            self._bucketed(root, start, plain, mine)
            return
        inputs = (*layout.parameters, *mine)
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if root is not None:
            found = torch.autograd.grad(root, inputs, start, retain_graph=plain is not None, allow_unused=True)
        shared, own = found[: len(layout.parameters)], found[len(layout.parameters) :]
        if plain is not None:
            own = torch.autograd.grad(plain, mine, self._graph.start(plain), allow_unused=True)
        if self.keeps_shard:
            self._own_of(mine, own)
            self.gather(self._exchange.reduce(layout.pack(shared, layout.empty())))
            return
        if self._exchange.world == 1:
            pairs = zip(inputs, (*shared, *own), strict=True)
            self._direct = [torch.zeros_like(p) if g is None else g for p, g in pairs]
            return
        self._own_of(mine, own)
        self._sum(layout.pack(shared, layout.empty()))

    def _sum(self, flat: Tensor) -> None:
        """This rank's gradient of everything shared [padded], and of the task parameters if known, in one message."""
        if self.own_local is None:
            self._flat = self._exchange.total(flat)
            return
        joined = self._exchange.total(torch.cat([flat, self.own_local.to(flat.dtype)]))
        self._flat, self.own, self.own_local = joined[: flat.numel()], joined[flat.numel() :], None

    def average(self, gradients: Iterable[Tensor]) -> None:
        """This rank's gradient of every shared parameter, in the layout's order, to be summed over ranks.

        They are asked for one after another, so that they need not be there together.
        """
        layout, buckets = self._plan.layout, self._plan.buckets
        if self.keeps_shard and (buckets is None or self._exchange.world == 1):
            self.gather(self._exchange.reduce(layout.pack(list(gradients), layout.empty())))
        elif self._exchange.world == 1:
            for parameter, gradient in zip(layout.parameters, gradients, strict=True):
                parameter.grad = gradient.to(parameter.dtype)
            self._written = True
        elif buckets is None:
            self._sum(layout.pack(list(gradients), layout.empty()))
        else:
            with self._sending(buckets) as sending:
                for index, gradient in enumerate(gradients):
                    sending.give(index, gradient)

    def _bucketed(
        self, root: Tensor | None, start: Tensor | None, plain: Tensor | None, mine: Sequence[nn.Parameter]
    ) -> None:
        """As for K task gradients, with a single one: exchanged while the pass runs."""
        buckets, layout = self._plan.buckets, self._plan.layout
        assert buckets is not None
        own: Sequence[Tensor | None] = [None] * len(mine)
        for parameter in mine:
            parameter.grad = None
        with self._sending(buckets) as sending:
            with sending.hooked():
                if root is not None:
                    inputs = [*layout.parameters, *mine]
                    torch.autograd.backward(root, start, retain_graph=plain is not None, inputs=inputs)
            if root is not None:
                own = [parameter.grad for parameter in mine]
                if plain is not None:
                    own = torch.autograd.grad(plain, mine, self._graph.start(plain), allow_unused=True)
            self._own_of(mine, own)
        self._average_own()

    @contextmanager
    def _sending(self, buckets: Buckets) -> Iterator[Buckets | Direction]:
        """What takes one gradient parameter by parameter; at the end its mean is whole here, or stays in shards.

        The task parameters' gradients travel along where they are known by then.
        """
        whole = None if self.keeps_shard else buckets.direction
        if whole is not None:
            whole.begin()
            yield whole
            if self.own_local is not None and whole.carries(self.own_local):
                self.own, self.own_local = whole.end(self.own_local), None
            else:
                whole.end()
            self._flat = whole.flat
            return
        row = buckets.spare
        buckets.begin(row)
        yield buckets
        buckets.end()
        buckets.drain()
        self.gather(row)

    def _own_of(self, mine: Sequence[nn.Parameter], found: Sequence[Tensor | None]) -> None:
        if self._plan.own is not None and mine:
            self.own_local = self._plan.own.pack(found, self._plan.own.empty())

    def finish(self) -> float:
        """Set ``.grad``; gives the norm of the shared gradient. Raises NonFinite, and then nothing is set."""
        if self.shard is not None:
            return self._finish_shard(self.shard)
        if self._direct is not None:
            return self._hand_over(self._direct)
        if self._written:
            return self._finish_own()
        if self._flat is None:
            raise RuntimeError("the method wrote no gradient: it must call apply or write exactly once")
        if self._scale != 1.0:
            self._flat.mul_(1.0 / self._scale)
        norm = self.norm if self.norm is not None else float(torch.linalg.vector_norm(self._flat))
        if not _finite(self._flat, norm):
            raise NonFinite("the combined gradient is not finite")
        self._finish_own()
        self._plan.layout.write(self._flat)
        return norm

    def _finish_shard(self, shard: Tensor) -> float:
        """As ``finish``, of this rank's columns; one number is exchanged where the Gram does not tell the norm."""
        if self._scale != 1.0:
            shard.mul_(1.0 / self._scale)
        if self.norm is None or not self.norm < SURE:
            squares = torch.linalg.vector_norm(shard, dtype=torch.float64).square().cpu().reshape(1)
            self.norm = math.sqrt(float(self._exchange.total(squares)))
        if not math.isfinite(self.norm):
            raise NonFinite("the combined gradient is not finite")
        return self._finish_own()

    def _finish_own(self) -> float:
        self._average_own()
        if self.own is not None and self._graph.scale != 1.0:
            self.own = self.own / self._graph.scale
        if self.own is not None and not _finite(self.own, float(torch.linalg.vector_norm(self.own))):
            raise NonFinite("the combined gradient is not finite")
        if self._plan.own is not None and self.own is not None:
            self._plan.own.write(self.own)
        return self.norm if self.norm is not None else math.nan

    def _hand_over(self, found: list[Tensor]) -> float:
        if self._scale != 1.0:
            torch._foreach_mul_(found, 1.0 / self._scale)
        norms = torch.stack(torch._foreach_norm(found)).tolist()
        if not all(map(math.isfinite, norms)) and not all(bool(torch.isfinite(g).all()) for g in found):
            raise NonFinite("the combined gradient is not finite")
        parameters = (*self._plan.layout.parameters, *self._graph.reach.own_parameters)
        for parameter, gradient in zip(parameters, found, strict=False):  # without the heads, if they ran before
            parameter.grad = gradient
        self._finish_own()
        return math.hypot(*norms[: len(self._plan.layout.parameters)])


def _finite(numbers: Tensor, norm: float) -> bool:
    """A norm is one pass and proof enough, unless it overflows float32: the numbers themselves are looked at then."""
    return math.isfinite(norm) or bool(torch.isfinite(numbers).all())
