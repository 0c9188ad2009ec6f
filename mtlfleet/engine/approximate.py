"""Cheaper looks at the task gradients, each under its own name. A step that uses one says so."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlfleet.engine.gradients import Gram, Rows, Weights
from mtlfleet.engine.products import block_gram
from mtlfleet.engine.views import StepGradients
from mtlfleet.errors import EngineRefused
from mtlfleet.plan.streams import stream

APPROXIMATIONS = ("ub", "sketch")


class _GramOnly(StepGradients):
    """A view without rows."""

    def rows(self) -> Rows:
        raise EngineRefused(
            f"the approximation {self.way!r} has a Gram but no task gradients, and the method asks for them",
            help="leave `approximate` out",
        )

    def grams(self, by: str = "tensor") -> tuple[tuple[str, ...], Tensor]:
        """Refused: only the whole model's is approximated."""
        raise EngineRefused(
            f"the approximation {self.way!r} has the Gram of the whole model, and the method asks for one per {by}",
            help="leave `approximate` out",
        )


class UpperBoundGradients(_GramOnly):
    """The Gram at the representation stands for that of the parameters: another method, one pass through the trunk."""

    @property
    def way(self) -> str:
        return "ub"

    def gram(self) -> Gram:
        """[K, K] at the representation, samples side by side."""
        if self.seen_gram is None:
            self.seen_gram = self.representation.gram()
        return Gram(self.seen_gram)

    def apply(self, weights: Weights) -> None:
        """One pass from the representation."""
        self.weights = weights.detach().to(torch.float64)
        self.representation.apply(weights)


class SketchGradients(_GramOnly):
    """K passes, each gradient folded with random signs into ``bins`` numbers: an unbiased Gram for K * bins bytes.

    Relative error about 1 / sqrt(bins). The update is exact for the weights found: one more, weighted pass.
    Source: Charikar, Chen and Farach-Colton, Finding frequent items in data streams, 2002 (count sketch).
    """

    bins = 16_384
    key = (0, 0)  # seed, step

    @property
    def way(self) -> str:
        return "sketch"

    def gram(self) -> Gram:
        """[K, K] of the sketches."""
        if self.seen_gram is None:
            self._graph.keep = True
            sketches = self._sketches()
            self.seen_gram = self._agree(block_gram(self._exchange.total(sketches)) / self._exchange.world)
        return Gram(self.seen_gram)

    def _sketches(self) -> Tensor:
        layout = self._plan.layout
        padded = -(-layout.size // self.bins) * self.bins
        drawn = torch.Generator().manual_seed(stream(self.key[0], "sketch", self.key[1]))
        signs = torch.empty(padded, dtype=torch.int8).random_(0, 2, generator=drawn).mul_(2).sub_(1)
        signs = signs.to(layout.parameters[0].device)
        found = layout.empty(len(self._graph.reach.tasks), of=self.bins)
        flat = layout.empty(of=padded)
        for k, _, root, start, _ in self._graph.roots():
            if root is not None:
                gradients = torch.autograd.grad(root, layout.parameters, start, retain_graph=True, allow_unused=True)
                layout.pack(gradients, flat)
                found[k] = flat.mul_(signs).view(-1, self.bins).sum(0)
        return found

    def apply(self, weights: Weights) -> None:
        """One weighted pass, as for a sum of losses."""
        self.weights = weights.detach().to(torch.float64)
        by_task = {task: float(w) for task, w in zip(self._graph.reach.tasks, self.weights, strict=True)}
        self._out.backward(by_task)
