"""A step whose task weights come from its first micro-batch: the others are one weighted pass each.

Nothing is sent for them until the step: their sum is added to the shard of the first one's direction, and both are
gathered together. The update is that of the whole batch's gradients under the first micro-batch's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from mtlfleet.engine.backward import weighted
from mtlfleet.engine.collect import Plan
from mtlfleet.engine.gradients import Losses, Weights
from mtlfleet.engine.microbatches import exchanged, refuse_other_places, refuse_without_weights
from mtlfleet.engine.outcome import NonFinite, scale_by_task
from mtlfleet.engine.products import combine
from mtlfleet.engine.views import StepGradients


@dataclass
class Scalarised:
    """What the first micro-batch decided, and what has been summed since."""

    plan: Plan
    losses: Losses  # [K] of all micro-batches so far
    flat: Tensor  # [padded] weighted gradient of this rank, times the loss scale
    own: Tensor | None  # the task parameters', times the loss scale
    shard: Tensor | None = None  # [n] of the first one's direction, if its task gradients were looked at
    weights: Tensor | None = None
    gram: Tensor | None = None
    buffer: Tensor | None = None
    way: str = "weighted"
    decision: Any = None  # what the engine made of it; None when a number was not finite
    reason: str = ""  # why it is None


class LocalPass(StepGradients):
    """A view that can take one weighted pass without a word to other ranks."""

    _joins = False

    def sum_up(self, weights: Tensor, kept: Scalarised) -> None:
        """Add the gradient of sum_k weights[k] * loss_k, and the task parameters', to what is kept."""
        graph, plan = self._graph, self._plan
        total, plain = weighted(graph, dict(zip(graph.reach.tasks, weights.tolist(), strict=True)), self._heads)
        if total is None:
            return
        shared, mine = plan.layout.parameters, graph.reach.own_parameters
        twice = plain is not None
        inputs = shared if twice else (*shared, *mine)
        found = torch.autograd.grad(total, inputs, graph.start(total), retain_graph=twice, allow_unused=True)
        plan.layout.pack_from(0, found[: len(shared)], kept.flat)
        if plan.own is not None and kept.own is not None:
            rest = found[len(shared) :]
            if plain is not None:
                rest = torch.autograd.grad(plain, mine, graph.start(plain), allow_unused=True)
            plan.own.pack_from(0, rest, kept.own)


class FirstGradients(LocalPass):
    """The micro-batch that the method looks at. What it decides stays on this rank."""

    def decide(self, decide: Callable[[StepGradients], Any]) -> Scalarised:
        """Let the method look. A number that is not finite skips the step when it comes."""
        own = self._plan.own.empty() if self._plan.own is not None else None
        self.kept = kept = Scalarised(self._plan, self.losses, self._plan.layout.empty(), own)
        try:
            kept.decision = decide(self)
        except NonFinite as reason:
            kept.reason = str(reason)
            return kept
        if self.weights is None:
            raise RuntimeError("the method wrote no gradient: it must call apply exactly once")
        kept.weights, kept.gram, kept.buffer, kept.way = self.weights, self.seen_gram, self.buffer, self.way
        return kept

    def _collected(self) -> Tensor:
        rows = super()._collected()
        if self._out.own_local is not None:  # not averaged before the other micro-batches' are added
            self.kept.own, self._out.own_local = self._out.own_local, None
        return rows

    def apply(self, weights: Weights) -> None:
        """The weights, for all micro-batches; this one's direction from its rows, if there are any."""
        self.weights = weights.detach().to(torch.float64)
        if self._rows is None:
            self.sum_up(self.weights, self.kept)
            return
        told = self.weights if self._seen else self.weights / self._graph.scale
        self.kept.shard = combine(self._rows, told, in_place=not self._seen)
        if self.kept.own is not None and self._heads == "weighted":
            scale_by_task(self.kept.own, self.weights, self._graph.reach)

    def scale_own(self, factors: Weights) -> NoReturn:  # noqa: ARG002
        """Refused: later micro-batches would not be scaled."""
        refuse_without_weights("a factor of its own for each task's own parameters")

    def apply_grouped(self, weights: Tensor, by: str = "tensor") -> NoReturn:  # noqa: ARG002
        """Refused: a weight for each group of parameters is none for the task."""
        refuse_without_weights("a combination by groups of parameters")

    def write(self, direction: Tensor) -> NoReturn:  # noqa: ARG002
        """Refused: no weights."""
        refuse_without_weights("a direction written column by column")


class FurtherGradients(LocalPass):
    """A later micro-batch: nobody looks."""

    _way = "weighted"

    def add(self, kept: Scalarised) -> None:
        """One pass with the first one's weights."""
        refuse_other_places(kept.plan, self._plan)
        kept.losses = Losses(kept.losses + self.losses)
        if kept.weights is not None:
            self.sum_up(kept.weights, kept)

    def conclude(self, kept: Scalarised) -> Any:
        """With the last micro-batch: exchange, and hand the direction over. Gives the decision; raises NonFinite."""
        self.add(kept)
        self.losses, self.weights, self.seen_gram = kept.losses, kept.weights, kept.gram
        self.buffer, self._way = kept.buffer, kept.way
        if kept.decision is None or not torch.isfinite(kept.losses).all():
            raise NonFinite(kept.reason or "a loss is not finite")
        shard = exchanged(self._plan, self._exchange, kept.flat.unsqueeze(0), [True])[0]
        if self._graph.scale != 1.0:
            shard = shard.mul_(1.0 / self._graph.scale)
        self._out.own_local = kept.own
        self._out.gather(shard if kept.shard is None else shard.add_(kept.shard))
        return kept.decision

    @property
    def way(self) -> str:
        """The first micro-batch's."""
        return self._way
