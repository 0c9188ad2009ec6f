"""The exact Gram without the task gradients of linear layers: (2 + K) / 3 of a plain step instead of (1 + 2K) / 3.

K passes compute the gradients of the layers' outputs only; their small products give the Gram; one weight gradient is
taken, of the weighted sum. Other parameters, and layers where it does not pay, have their gradients taken in the same
passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mtlfleet.engine.backward import Gradients, Graph
from mtlfleet.engine.collect import Plan
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Gram, Losses, Rows, Weights
from mtlfleet.engine.layout import Layout
from mtlfleet.engine.linear import Call, Layer, Recorder, factor_gram, gain, uses
from mtlfleet.engine.outcome import NonFinite, Outcome
from mtlfleet.engine.products import block_gram, combine
from mtlfleet.errors import EngineRefused


@dataclass
class Factors:
    """Which layers of one shape of graph are factored, agreed by all ranks; the rest is ``direct``."""

    layers: tuple[Layer, ...]
    direct: Plan | None
    whole: Plan  # of all shared parameters: what is written in the end
    candidates: int
    saved: float

    @classmethod
    def of(
        cls,
        reach: Reach,
        recorder: Recorder,
        calls: Mapping[str, list[Call]],
        losses: Sequence[Tensor],
        exchange: Exchange,
    ) -> Factors:
        """A layer is factored where that saves operations and every rank can."""
        counts = uses(losses)
        shared = {id(p) for p in reach.shared}
        told = torch.zeros(2, len(recorder.layers), dtype=torch.float64)  # cannot; rows
        for place, layer in enumerate(recorder.layers):
            mine = calls.get(layer.name, [])
            apt = all(id(p) in shared and counts.get(id(p), 0) == len(mine) for p in layer.parameters)
            absent = not mine and not any(counts.get(id(p)) for p in layer.parameters)
            told[0, place] = float(not (apt or absent) or not all(call.intact for call in mine))
            told[1, place] = float(sum(call.inputs.shape[0] for call in mine))
        told = exchange.maximum(told)
        chosen, saved = [], 0.0
        for place, layer in enumerate(recorder.layers):
            rows, size = int(told[1, place]), layer.module
            if not told[0, place] and rows and id(size.weight) in shared:
                more = gain(len(reach.tasks), rows, exchange.world, size.in_features, size.out_features)
                if more > 0:
                    chosen.append(layer)
                    saved += more
        return cls(
            tuple(chosen), _direct(reach, chosen, exchange), _whole(reach, exchange), len(recorder.layers), saved
        )

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
    plan = Plan.of(replace(reach, tasks=reach.tasks[:1]), exchange)
    return replace(plan, own=Layout.of(reach.own_parameters, 1) if reach.own_parameters else None)


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
        self._calls = calls
        self._exchange = exchange
        self._heads = heads
        self._out = Outcome(graph, factors.whole, exchange, heads)
        self._local: Tensor | None = None  # [K, padded] direct rows of this rank
        self._outputs: dict[str, Tensor] = {}  # layer -> D [K, R, d_out]

    @property
    def way(self) -> str:
        """How the gradients were computed, in a few words."""
        if self.seen_gram is None:
            return "weighted"
        return f"factored, {len(self._factors.layers)} of {self._factors.candidates} linear layers"

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
            for layer in self._factors.layers:
                partial += self._layer_gram(layer)
            self.seen_gram = self._exchange.total(partial) / self._graph.scale**2
            if not torch.isfinite(self.seen_gram).all():
                raise NonFinite("a task gradient is not finite")
        return Gram(self.seen_gram)

    def _passes(self) -> None:
        reach, plan = self._graph.reach, self._factors.direct
        direct = plan.layout.parameters if plan is not None else ()
        edges = [(layer, call) for layer in self._factors.layers for call in self._calls.get(layer.name, ())]
        for layer in self._factors.layers:
            rows = sum(call.inputs.shape[0] for call in self._calls.get(layer.name, ()))
            like = layer.module.weight
            kind = torch.promote_types(like.dtype, torch.float32)
            self._outputs[layer.name] = torch.zeros(
                len(reach.tasks), rows, like.shape[0], dtype=kind, device=like.device
            )
        self._local = plan.layout.empty(len(reach.tasks)) if plan is not None else None
        own = self._factors.whole.own
        self._out.own_local = own.empty() if own is not None else None
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
            cursor[layer.name] = start + call.inputs.shape[0]
            if gradient is not None:
                place = self._outputs[layer.name][k, start : cursor[layer.name]]
                place.copy_(gradient.reshape(place.shape))

    def _shards(self) -> Tensor:
        """This rank's columns of the direct parameters' rows."""
        assert self._local is not None
        plan = self._factors.direct
        assert plan is not None
        if plan.buckets is None:
            return self._exchange.reduce_rows(self._local)
        rows = plan.layout.empty(self._local.shape[0], of=plan.layout.shard)
        for k, local in enumerate(self._local):
            pieces = [
                local[at : at + p.numel()] for at, p in zip(plan.layout.offsets, plan.layout.parameters, strict=True)
            ]
            plan.buckets.add(rows[k], pieces)
        plan.buckets.drain()
        return rows

    def _inputs(self, layer: Layer) -> Tensor:
        found = [call.inputs for call in self._calls.get(layer.name, ())]
        kind = torch.promote_types(layer.module.weight.dtype, torch.float32)
        if not found:
            return torch.zeros(0, layer.module.in_features, dtype=kind, device=layer.module.weight.device)
        return (found[0] if len(found) == 1 else torch.cat(found)).to(kind)

    def _layer_gram(self, layer: Layer) -> Tensor:
        inputs, outputs = self._inputs(layer), self._outputs[layer.name]
        bias = layer.module.bias is not None
        if self._exchange.world == 1:
            return factor_gram(inputs, outputs, inputs, outputs, bias)
        both = torch.cat([inputs, outputs.transpose(0, 1).flatten(1)], 1)
        everyone = self._exchange.gather_rows(both)
        tasks, _, width = outputs.shape
        theirs = everyone[:, layer.module.in_features :].view(-1, tasks, width).transpose(0, 1)
        return factor_gram(inputs, outputs, everyone[:, : layer.module.in_features], theirs, bias)

    def apply(self, weights: Weights) -> None:
        """One weight gradient per layer, of the weighted sum; then one average over ranks of everything shared."""
        self.weights = weights.detach().to(torch.float64)
        if self.seen_gram is None:
            by_task = {task: float(w) for task, w in zip(self._graph.reach.tasks, self.weights, strict=True)}
            self._out.backward(by_task)
            return
        told = self.weights / self._graph.scale
        found: dict[int, Tensor] = {}
        for layer in self._factors.layers:
            outputs = self._outputs.pop(layer.name)
            combined = combine(outputs.flatten(1), told, in_place=False).view(outputs.shape[1:])
            found[id(layer.module.weight)] = combined.t() @ self._inputs(layer)
            if layer.module.bias is not None:
                found[id(layer.module.bias)] = combined.sum(0)
        if self._factors.direct is not None and self._local is not None:
            layout = self._factors.direct.layout
            flat = combine(self._local, told, in_place=True)
            for parameter, at in zip(layout.parameters, layout.offsets, strict=True):
                found[id(parameter)] = flat[at : at + parameter.numel()].view_as(parameter)
        self._out.average(found)
        if self._heads == "weighted":
            self._out.scale_own(self.weights)
        self._out.norm = float((self.weights @ self.seen_gram @ self.weights).clamp_min(0).sqrt())

    def finish(self) -> float:
        """Set ``.grad``; gives the norm of the shared gradient. Raises NonFinite as for the other ways."""
        return self._out.finish()
