"""The exact Gram without the task gradients of linear layers and convolutions: (2 + K) / 3 of a plain step instead of
(1 + 2K) / 3.

K passes compute the gradients of the layers' outputs only; their small products give the Gram; one weight gradient is
taken, of the weighted sum. Other parameters, and layers where it does not pay, have their gradients taken in the same
passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mtlfleet.engine.backward import Gradients, Graph
from mtlfleet.engine.collect import Plan
from mtlfleet.engine.convolution import Convolution
from mtlfleet.engine.cost import gain
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Gram, Losses, Rows, Weights
from mtlfleet.engine.layers import Call, Layer, Recorder, factor_gram
from mtlfleet.engine.linear import Linear
from mtlfleet.engine.outcome import NonFinite, Outcome
from mtlfleet.engine.products import block_gram, combine
from mtlfleet.errors import EngineRefused

# Everything else is taken directly; so are embeddings, whose A is one-hot and whose gradient is sparse to begin with.
KINDS: dict[type[nn.Module], Any] = {nn.Linear: Linear, nn.Conv1d: Convolution.of, nn.Conv2d: Convolution.of}


@dataclass
class Factors:
    """Which layers of one shape of graph are factored, agreed by all ranks; the rest is ``direct``."""

    layers: tuple[Layer, ...]
    direct: Plan | None
    whole: Plan  # of all shared parameters: what is written in the end
    candidates: int
    called: int  # of the shared candidates, on any rank
    saved: float  # operations

    @classmethod
    def of(
        cls,
        reach: Reach,
        recorder: Recorder,
        calls: Mapping[str, list[Call]],
        counts: Mapping[int, int],
        exchange: Exchange,
    ) -> Factors | None:
        """A layer is factored where that saves operations and every rank can; None if no layer is.

        ``counts``: see ``uses``.
        """
        shared = {id(p) for p in reach.shared}
        told = torch.zeros(2, len(recorder.layers), dtype=torch.float64)  # cannot; rows
        for place, layer in enumerate(recorder.layers):
            mine = calls.get(layer.name, [])
            apt = all(id(p) in shared and counts.get(id(p), 0) == len(mine) for p in layer.parameters)
            absent = not mine and not any(counts.get(id(p)) for p in layer.parameters)
            told[0, place] = float(not (apt or absent) or not all(call.intact for call in mine))
            told[1, place] = float(sum(call.rows for call in mine))
        told = exchange.maximum(told)
        chosen, called, saved = [], 0, 0.0
        for place, layer in enumerate(recorder.layers):
            rows = int(told[1, place])
            called += rows > 0 and id(layer.weight) in shared
            if not told[0, place] and rows and id(layer.weight) in shared:
                more = gain(len(reach.tasks), rows, exchange.world, layer.d_in, layer.d_out, layer.unfolding)
                if more > 0:
                    chosen.append(layer)
                    saved += more
        if not chosen:
            return None
        direct, whole = _direct(reach, chosen, exchange), _whole(reach, exchange)
        return cls(tuple(chosen), direct, whole, len(recorder.layers), called, saved)

    def fits(self, tasks: int) -> bool:
        """Whether the direct rest, which every rank holds whole, stays below one shard of everything."""
        rest = self.direct.layout.size if self.direct is not None else 0
        return tasks * rest * self.whole.layout.world <= (tasks + 1) * self.whole.layout.size


def _direct(reach: Reach, chosen: Sequence[Layer], exchange: Exchange) -> Plan | None:
    taken = {id(p) for layer in chosen for p in layer.parameters}
    rest = [(n, p) for n, p in zip(reach.shared_names, reach.shared, strict=True) if id(p) not in taken]
    if not rest:
        return None
    return Plan.of(replace(reach, shared=tuple(p for _, p in rest), shared_names=tuple(n for n, _ in rest)), exchange)


def _whole(reach: Reach, exchange: Exchange) -> Plan:
    """One weighted gradient of everything travels as for a single task."""
    return Plan.of(reach, exchange, tasks=1)


class FactoredGradients:
    """TaskGradients of one step for methods that look at the Gram."""

    weights: Tensor | None = None
    seen_gram: Tensor | None = None
    buffer: Tensor | None = None

    def __init__(
        self,
        graph: Graph,
        losses: Losses,
        factors: Factors,
        calls: Mapping[str, list[Call]],
        exchange: Exchange,
        heads: str,
    ) -> None:
        self.losses = losses
        self._graph = graph
        self._factors = factors
        self._calls = dict(calls)
        self._exchange = exchange
        self._heads = heads
        self.outcome = self._out = Outcome(graph, factors.whole, exchange, heads)
        self._local: Tensor | None = None  # [K, padded] direct rows of this rank
        self._outputs: dict[str, Tensor] = {}  # layer -> D [K, R, d_out]

    @property
    def way(self) -> str:
        """How the gradients were computed, in a few words."""
        if self.seen_gram is None:
            return "weighted"
        return f"factored, {len(self._factors.layers)} of {self._factors.candidates} layers"

    def rows(self) -> Rows:
        """Refused: there are none."""
        raise EngineRefused(
            "backward='factored' computes the Gram without task gradients, and the method asks for them",
            help="use backward='sequential' or 'auto'",
        )

    def grams(self, by: str = "tensor") -> tuple[tuple[str, ...], Tensor]:
        """Refused: only the whole model's is computed."""
        raise EngineRefused(
            f"backward='factored' or 'auto' computes the Gram of the whole model, and the method asks for one per {by}",
            help="use backward='sequential'",
        )

    def write(self, direction: Tensor) -> None:  # noqa: ARG002
        """Refused: see ``rows``."""
        self.rows()

    def gram(self) -> Gram:
        """[K, K], as for the other ways of computing it."""
        if self.seen_gram is None:
            self._passes()
            partial = torch.zeros(len(self._graph.reach.tasks), len(self._graph.reach.tasks), dtype=torch.float64)
            if self._factors.direct is not None and self._local is not None:
                partial += block_gram(self._shards())
            layers, sizes = self._factors.layers, self._sizes()
            for layer, each in zip(layers, sizes, strict=True):
                partial += self._layer_gram(layer, each)
            self.seen_gram = self._exchange.total(partial) / self._graph.scale**2
            if not torch.isfinite(self.seen_gram).all():
                raise NonFinite("a task gradient is not finite")
        return Gram(self.seen_gram)

    def _passes(self) -> None:
        reach, plan = self._graph.reach, self._factors.direct
        direct = plan.layout.parameters if plan is not None else ()
        edges = [(layer, call) for layer in self._factors.layers for call in self._calls.get(layer.name, ())]
        for layer in self._factors.layers:
            rows = sum(call.rows for call in self._calls.get(layer.name, ()))
            self._outputs[layer.name] = torch.zeros(
                len(reach.tasks), rows, layer.d_out, dtype=layer.dtype, device=layer.weight.device
            )
        self._local = plan.layout.empty(len(reach.tasks)) if plan is not None else None
        own = self._factors.whole.own
        self._out.own_local = own.empty() if own is not None else None
        z = self._graph.z
        if z is not None and len(reach.tasks) * z.numel() <= self._factors.whole.layout.size:
            self._graph.heads()  # in one pass: they take no more memory than the gradient
        for k, task, root, start, known in self._graph.roots():
            mine = () if known is not None else reach.own[task]
            gradients: Gradients = ()
            if root is not None:
                inputs: Any = [*(call.edge for _, call in edges), *direct, *mine]
                keep = task != self._graph.last
                gradients = torch.autograd.grad(root, inputs, start, retain_graph=keep, allow_unused=True)
                self._keep_outputs(k, edges, gradients)
                if plan is not None and self._local is not None:
                    plan.layout.pack(gradients[len(edges) : len(edges) + len(direct)], self._local[k])
            told = known if known is not None else gradients[len(edges) + len(direct) :]
            if own is not None and self._out.own_local is not None:
                own.pack_from(sum(len(reach.own[t]) for t in reach.tasks[:k]), told, self._out.own_local)

    def _keep_outputs(self, k: int, edges: Sequence[tuple[Layer, Call]], gradients: Gradients) -> None:
        cursor: dict[str, int] = {}
        for (layer, call), gradient in zip(edges, gradients, strict=False):
            start = cursor.get(layer.name, 0)
            cursor[layer.name] = start + call.rows
            if gradient is not None:
                layer.spread(gradient, self._outputs[layer.name][k, start : cursor[layer.name]])

    def _shards(self) -> Tensor:
        """This rank's columns of the direct parameters' rows."""
        assert self._local is not None
        plan = self._factors.direct
        assert plan is not None
        if plan.buckets is None:
            return self._exchange.reduce_rows(self._local)
        rows = plan.layout.empty(self._local.shape[0], of=plan.layout.shard)
        for k, local in enumerate(self._local):
            plan.buckets.add(rows[k], plan.layout.views(local))
        plan.buckets.drain()
        return rows

    def _sizes(self) -> list[list[int]]:
        """For each factored layer the rows that each rank's saw; they differ where samples do, and are asked once."""
        rows = [self._outputs[layer.name].shape[1] for layer in self._factors.layers]
        if self._exchange.world == 1:
            return [[count] for count in rows]
        return self._exchange.counts(rows, self._factors.layers[0].weight.device)

    def _layer_gram(self, layer: Layer, sizes: Sequence[int]) -> Tensor:
        inputs, outputs = layer.inputs(self._calls.get(layer.name, ())), self._outputs[layer.name]
        bias = layer.bias is not None
        if self._exchange.world == 1:
            return factor_gram(inputs, outputs, inputs, outputs, bias)
        everyone = self._exchange.gather_rows(torch.cat([inputs, outputs.transpose(0, 1).flatten(1)], 1), sizes)
        tasks, _, width = outputs.shape
        theirs = everyone[:, layer.d_in :].view(-1, tasks, width).transpose(0, 1)
        return factor_gram(inputs, outputs, everyone[:, : layer.d_in], theirs, bias)

    def apply(self, weights: Weights) -> None:
        """One weight gradient per layer, of the weighted sum; then one average over ranks of everything shared."""
        self.weights = weights.detach().to(torch.float64)
        if self.seen_gram is None:
            by_task = {task: float(w) for task, w in zip(self._graph.reach.tasks, self.weights, strict=True)}
            self._out.backward(by_task)
            return
        self._out.average(self._combined(self.weights / self._graph.scale))
        if self._heads == "weighted":
            self._out.scale_own(self.weights)
        self._out.norm = float((self.weights @ self.seen_gram @ self.weights).clamp_min(0).sqrt())

    def scale_own(self, factors: Weights) -> None:
        """As elsewhere."""
        self._out.scale_own(factors)

    def _combined(self, weights: Tensor) -> Iterator[Tensor]:
        """The weighted gradient of each shared parameter in the layout's order, made when it is asked for."""
        whose = {id(parameter): layer for layer in self._factors.layers for parameter in layer.parameters}
        direct: dict[int, Tensor] = {}
        if self._factors.direct is not None and self._local is not None:
            layout = self._factors.direct.layout
            flat = combine(self._local, weights, in_place=True)
            direct = {id(p): view for p, view in zip(layout.parameters, layout.views(flat), strict=True)}
        outputs: dict[str, Tensor] = {}
        for parameter in self._factors.whole.layout.parameters:
            layer = whose.get(id(parameter))
            if layer is None:
                yield direct[id(parameter)]
                continue
            if layer.name not in outputs:
                outputs[layer.name] = _mixed(self._outputs.pop(layer.name), weights)
            if parameter is layer.bias:
                yield outputs[layer.name].sum(0)
            else:
                inputs = layer.inputs(self._calls.pop(layer.name, ()))
                yield (outputs[layer.name].t() @ inputs).view_as(parameter)
                del inputs

    def finish(self) -> float:
        """Set ``.grad``; gives the norm of the shared gradient. Raises NonFinite as for the other ways."""
        return self._out.finish()


def _mixed(outputs: Tensor, weights: Tensor) -> Tensor:
    """[K, R, d_out], [K] -> [R, d_out]."""
    return combine(outputs.flatten(1), weights, in_place=False).view(outputs.shape[1:])
