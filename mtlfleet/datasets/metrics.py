"""Metrics that do not depend on how a split was cut into batches and ranks.

An accumulator holds no state: ``empty`` gives one, ``update`` the next, ``value`` reads it. A state is a float64 vector
of sums, so ranks merge theirs by one SUM all-reduce. A mean of per-batch means would overweight a short last batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlfleet.datasets.losses import aligned
from mtlfleet.plan.tasks import Task


def _hits(prediction: Tensor, target: Tensor) -> Tensor:
    """1 where the top prediction is the label; a prediction that is not finite is wrong.

    One logit per label is a binary task: positive means 1.
    """
    if prediction.dim() > target.dim() and prediction.shape[1] > 1:
        return (prediction.argmax(1) == target) & prediction.isfinite().all(1)
    logit = aligned(prediction, target)
    return ((logit > 0) == (target > 0.5)) & logit.isfinite()


def _misses(prediction: Tensor, target: Tensor) -> Tensor:
    return ~_hits(prediction, target)


def _squares(prediction: Tensor, target: Tensor) -> Tensor:
    return (aligned(prediction, target).double() - target.double()).square()


def _distances(prediction: Tensor, target: Tensor) -> Tensor:
    return (aligned(prediction, target).double() - target.double()).abs()


@dataclass(frozen=True)
class Accumulator:
    """One metric as a mean over elements, then ``finish``.

    ``each(prediction, target)`` gives one number per element of the target.
    """

    metric: str
    each: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[float], float] = float

    def empty(self, device: torch.device | str = "cpu") -> Tensor:
        """The state before the first sample: float64 [2], sum and count."""
        return torch.zeros(2, dtype=torch.float64, device=device)

    def update(self, state: Tensor, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """The state after a batch: prediction and target [B, ...], present bool [B]; absent samples are not read."""
        values = self.each(prediction.detach()[present], target[present]).double()
        return state + torch.stack((values.sum(), values.new_tensor(values.numel()))).to(state.device)

    def value(self, state: Tensor) -> float:
        """The metric over everything the state has seen; NaN if that is nothing."""
        total, count = state.tolist()
        return self.finish(total / count) if count else math.nan

    def count(self, state: Tensor) -> int:
        """How many elements the state has seen."""
        return int(state[1])


ACCUMULATORS: Mapping[str, Accumulator] = {
    a.metric: a
    for a in (
        Accumulator("accuracy", _hits),
        Accumulator("error", _misses),
        Accumulator("rmse", _squares, math.sqrt),
        Accumulator("mse", _squares),
        Accumulator("mae", _distances),
    )
}


def accumulators(task: Task) -> dict[str, Accumulator]:
    """The accumulators of a task's metrics, in its order."""
    return {metric: ACCUMULATORS[metric] for metric in task.metrics}
