"""One step's task gradients, as a method sees them: lazy, globally averaged, never whole.

Letters: K tasks, P shared parameters, n this rank's columns of them (P/W, padded).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType, Protocol

import torch
from torch import Tensor

from mtlfleet.plan.streams import stream

Losses = NewType("Losses", Tensor)  # [K] float64, means over the global batch
Weights = NewType("Weights", Tensor)  # [K] float64
Gram = NewType("Gram", Tensor)  # [K, K] float64, positive semi-definite
Rows = NewType("Rows", Tensor)  # [K, n], this rank's columns of the averaged task gradients


@dataclass(frozen=True, slots=True)
class Step:
    """Where in training a method is called. All its draws come from ``generator``; none from torch's global state."""

    number: int = 0
    epoch: int = 0
    seed: int = 0

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator keyed by (seed, purpose, step): the same on every rank and after every resume."""
        return torch.Generator().manual_seed(stream(self.seed, purpose, self.number))


class Needs(Enum):
    """What a method looks at, cheapest first."""

    LOSSES = "losses"
    GRAM = "gram"
    REPRESENTATION = "representation"
    ROWS = "rows"


class AtRepresentation(Protocol):
    """Task gradients at the one tensor that all heads read. Samples of different ranks are one batch."""

    @property
    def z(self) -> Tensor:
        """[B, ...] of this rank, without its graph."""
        ...

    @property
    def gradients(self) -> Tensor:
        """[K, B, ...] of this rank: of the global-mean losses."""
        ...

    def batch_sum(self, signed: bool = False) -> Tensor:
        """[K, D]: summed over the samples of all ranks; ``signed``: each number times the sign of its z first."""
        ...

    def gram(self, convention: str = "concat") -> Gram:
        """[K, K], samples side by side (``"concat"``) or summed first (``"batch_sum"``)."""
        ...

    def apply(self, weights: Weights, own: Weights | None = None) -> None:
        """The shared gradient becomes sum_k weights[k] * g_k, by one pass through the trunk. ``own`` [K]: what task
        parameters' gradients are multiplied by, instead of what the method's ``heads`` says."""
        ...

    def write(self, cotangent: Tensor) -> None:
        """The shared gradient becomes what a pass from z with ``cotangent`` [B, ...] gives."""
        ...


class TaskGradients(Protocol):
    """What a method may ask of one step. Every number is averaged over all ranks before it is seen."""

    @property
    def losses(self) -> Losses:
        """[K] losses of the global batch."""
        ...

    def gram(self) -> Gram:
        """[K, K]: inner products of the averaged task gradients, summed in float64."""
        ...

    def rows(self) -> Rows:
        """[K, n]: this rank's columns of the averaged task gradients."""
        ...

    @property
    def columns(self) -> Tensor:
        """int64 [n]: where in the flattened shared gradient each column of the rows lies. The same number of the same
        parameter in every world, so a draw keyed by it does not depend on how many ranks there are; padding lies beyond
        the last parameter."""
        ...

    def apply(self, weights: Weights) -> None:
        """The shared gradient becomes sum_k weights[k] * g_k: from the rows if there are any, else by one backward."""
        ...

    def apply_mean(self, weights: Weights) -> None:
        """As ``apply``, of the mean of the task gradients of all batches of the step."""
        ...

    def scale_own(self, factors: Weights) -> None:
        """After ``apply`` or ``write``: the gradient of each task's own parameters times its factor [K]. Raises
        EngineRefused where they were not computed task by task."""
        ...

    def write(self, direction: Tensor) -> None:
        """The shared gradient becomes ``direction`` [n], this rank's columns of it."""
        ...

    def grams(self, by: str = "tensor") -> tuple[tuple[str, ...], Tensor]:
        """(names [L], [L, K, K]): the Gram by groups of parameters, by ``"tensor"`` or ``"layer"``; they sum to it."""
        ...

    def apply_grouped(self, weights: Tensor, by: str = "tensor") -> None:
        """weights [L, K]: each group of ``grams(by)`` gets its own combination."""
        ...

    def total(self, partial: Tensor) -> Tensor:
        """The sum over ranks of what each made of its own columns: norms or products of state that lives in shards."""
        ...

    def cross_gram(self, first: int, second: int) -> Tensor:
        """[K, K]: task gradients of one batch of the step times those of another."""
        ...

    @property
    def representation(self) -> AtRepresentation:
        """The gradients at the shared representation. Raises EngineRefused where there is none."""
        ...
