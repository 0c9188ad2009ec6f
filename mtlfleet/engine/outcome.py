"""What a method decided, on its way into ``.grad``: gathered from the ranks' shards, or one weighted backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlfleet.engine.backward import Graph, weighted
from mtlfleet.engine.collect import Plan
from mtlfleet.engine.exchange import Exchange


class NonFinite(ArithmeticError):
    """A loss or a task gradient is NaN or infinite, on some rank; raised on all of them."""


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
        self._scale = 1.0  # what is still to be divided out of the direction

    def gather(self, shard: Tensor) -> None:
        """This rank's n columns -> the whole direction; each bucket goes straight to its place."""
        layout = self._plan.layout
        if self._plan.buckets is None or self._exchange.world == 1:
            self._flat = self._exchange.gather(shard)
            return
        self._flat = torch.empty(layout.padded, dtype=shard.dtype, device=shard.device)
        shard, works = shard.contiguous(), []
        for bucket in range(layout.buckets):
            first, last = layout.span(bucket)
            mine = shard[first // layout.world : last // layout.world]
            works.append(self._exchange.post_gather(mine, self._flat[first:last]))
        for work in works:
            work.wait()

    def scale_own(self, weights: Tensor) -> None:
        """Task parameters' gradients times their task's weight."""
        self._average_own()
        if self.own is None:
            return
        cursor = 0
        for k, task in enumerate(self._graph.reach.tasks):
            size = sum(parameter.numel() for parameter in self._graph.reach.own[task])
            self.own[cursor : cursor + size] *= float(weights[k])
            cursor += size

    def _average_own(self) -> None:
        """Mean over ranks of the task parameters' gradients, if the Gram's message did not carry them."""
        if self.own_local is not None:
            self.own = self._exchange.total(self.own_local)
            self.own_local = None

    def backward(self, weights: Mapping[str, float]) -> None:
        """One pass of sum_k weights[k] * loss_k, averaged over ranks."""
        total, plain = weighted(self._graph, weights, self._heads)
        self._scale = self._graph.scale
        if self._exchange.world > 1 and self._plan.buckets is not None:
            self._bucketed(total, plain)
            return
        shared, own = self._pass(total, plain, self._plan.layout.parameters)
        if self._exchange.world == 1:
            self._direct = [torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters(), (*shared, *own), strict=True)]
            return
        flat = self._plan.layout.pack(shared, self._plan.layout.empty())
        if self._plan.own is None:
            self._flat = self._exchange.total(flat)
            return
        joined = torch.cat([flat, self._plan.own.pack(own, self._plan.own.empty()).to(flat.dtype)])
        joined = self._exchange.total(joined)
        self._flat, self.own = joined[: flat.numel()], joined[flat.numel() :]

    def _parameters(self) -> tuple[torch.nn.Parameter, ...]:
        return (*self._plan.layout.parameters, *self._graph.reach.own_parameters)

    def _pass(
        self, total: Tensor | None, plain: Tensor | None, shared: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """(gradients of ``shared``, of the own parameters) on this rank."""
        mine = self._graph.reach.own_parameters
        if total is None:
            return [None] * len(shared), [None] * len(mine)
        inputs, start = (*shared, *mine), self._graph.start(total)
        found = torch.autograd.grad(total, inputs, start, retain_graph=plain is not None, allow_unused=True)
        own: Sequence[Tensor | None] = found[len(shared) :]
        if plain is not None:
            own = torch.autograd.grad(plain, mine, start, allow_unused=True)
        return found[: len(shared)], own

    def _bucketed(self, total: Tensor | None, plain: Tensor | None) -> None:
        """As for K task gradients, with a single one: exchanged while the pass runs, gathered afterwards."""
        buckets, layout, mine = self._plan.buckets, self._plan.layout, self._graph.reach.own_parameters
        assert buckets is not None
        row = layout.empty(of=layout.shard)
        own: Sequence[Tensor | None] = [None] * len(mine)
        for parameter in mine:
            parameter.grad = None
        buckets.begin(row)
        if total is not None:
            with buckets.hooked():
                start = self._graph.start(total)
                torch.autograd.backward(total, start, retain_graph=plain is not None, inputs=[*layout.parameters, *mine])
            own = [parameter.grad for parameter in mine]
            if plain is not None:
                own = torch.autograd.grad(plain, mine, start, allow_unused=True)
        buckets.end()
        if self._plan.own is not None:
            self.own_local = self._plan.own.pack(own, self._plan.own.empty())
        buckets.drain()
        self._average_own()
        self.gather(row)

    def finish(self) -> float:
        """Set ``.grad``; gives the norm of the shared gradient. Raises NonFinite, and then nothing is set."""
        if self._direct is not None:
            return self._hand_over(self._direct)
        if self._flat is None:
            raise RuntimeError("the method wrote no gradient: it must call apply or write exactly once")
        self._average_own()
        if self.own is not None and self._graph.scale != 1.0:
            self.own = self.own / self._graph.scale
        if self._scale != 1.0:
            self._flat = self._flat / self._scale
        norm = self.norm if self.norm is not None else float(torch.linalg.vector_norm(self._flat))
        fine = norm == norm and abs(norm) != float("inf")
        if not (fine or torch.isfinite(self._flat).all()) or (self.own is not None and not torch.isfinite(self.own).all()):
            raise NonFinite("the combined gradient is not finite")
        self._plan.layout.write(self._flat)
        if self._plan.own is not None and self.own is not None:
            self._plan.own.write(self.own)
        return norm

    def _hand_over(self, found: list[Tensor]) -> float:
        if self._scale != 1.0:
            torch._foreach_mul_(found, 1.0 / self._scale)
        norms = torch.stack(torch._foreach_norm(found))
        if not torch.isfinite(norms).all() and not all(bool(torch.isfinite(g).all()) for g in found):
            raise NonFinite("the combined gradient is not finite")
        for parameter, gradient in zip(self._parameters(), found, strict=True):
            parameter.grad = gradient
        return float(norms[: len(self._plan.layout.parameters)].norm())
