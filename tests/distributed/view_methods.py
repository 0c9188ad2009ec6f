"""A method of no paper that looks at two batches a step and at the losses after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtlfleet.methods.base import Losses, Method, Needs, Step, TaskGradients, Weights, method


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Of each step: the last weights [K], and by how much the losses fell in all."""

    weights: Tensor
    fell: Tensor
    steps: int


@method("two_batches")
@dataclass(frozen=True, slots=True, kw_only=True)
class TwoBatches(Method[Seen]):
    """Weights from the products of one batch's gradients with another's."""

    needs: ClassVar[Needs] = Needs.ROWS
    batches: ClassVar[int] = 2
    observes: ClassVar[bool] = True

    rate: float = 0.1

    def init(self, tasks: int) -> Seen:
        return Seen(torch.full((tasks,), 1 / tasks, dtype=torch.float64), torch.zeros(tasks, dtype=torch.float64), 0)

    def step(self, grads: TaskGradients, state: Seen, at: Step) -> tuple[Seen, str]:
        products = grads.cross_gram(0, 1)
        weights = torch.softmax(torch.log(state.weights) - self.rate * products @ state.weights, dim=0)
        grads.apply(Weights(weights))
        return Seen(weights, state.fell, state.steps + 1), "ok"

    def observe(self, before: Losses, after: Losses, state: Seen, at: Step) -> Seen:
        return Seen(state.weights, state.fell + before - after, state.steps)
