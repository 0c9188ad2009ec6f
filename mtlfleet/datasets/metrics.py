"""Metrics that do not depend on how a split was cut into batches and ranks.

An accumulator holds no state: ``empty`` gives one, ``update`` the next, ``value`` reads it. A state is a float64 vector
of sums, so ranks merge theirs by one SUM all-reduce; the few that need every sample (``joins``) are rows, merged by
putting them together. A mean of per-batch means would overweight a short last batch.

What is not a number: a class predicted from logits that are not finite is wrong, a normal that is not finite is 180
degrees off, and everything else that averages or ranks predictions is NaN as soon as one of them is. A metric of
nothing, and an AUC of labels that are all alike, is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlfleet.datasets.confusion import CONFUSIONS, Confusion
from mtlfleet.datasets.geometry import MEDIAN, Median, within
from mtlfleet.datasets.losses import aligned, labelled
from mtlfleet.datasets.pooled import POOLED, Auc, Pooled
from mtlfleet.plan.tasks import Task

NEAREST = 1e-6  # what a predicted depth is taken for, at least, where it is divided by


class Accumulator(Protocol):
    """One metric of one task."""

    @property
    def joins(self) -> bool:
        """Whether states are rows to put together; else they are sums to add."""
        ...

    def empty(self, device: torch.device | str = "cpu") -> Tensor:
        """The state before the first sample, float64."""
        ...

    def update(self, state: Tensor, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """The state after a batch: prediction and target [B, ...], present bool [B]; absent samples are not read."""
        ...

    def value(self, state: Tensor) -> float:
        """The metric over everything the state has seen; NaN if that is nothing."""
        ...

    def count(self, state: Tensor) -> int:
        """How many elements the state has seen."""
        ...


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


def _surprise(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.dim() > target.dim() and prediction.shape[1] > 1:
        return F.cross_entropy(prediction.double(), target, reduction="none")
    return F.binary_cross_entropy_with_logits(aligned(prediction, target).double(), target.double(), reduction="none")


def _deep(error: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """``error(prediction, depth)`` over the pixels that have a depth."""

    def each(prediction: Tensor, target: Tensor) -> Tensor:
        mask = labelled("depth", target)
        return error(aligned(prediction, target)[mask].double(), target[mask].double())

    return each


def _factor(prediction: Tensor, target: Tensor) -> Tensor:
    near = prediction.clamp(min=NEAREST)
    return torch.maximum(target / near, near / target)


def _within_factor(power: int) -> Callable[[Tensor, Tensor], Tensor]:
    return _deep(lambda prediction, target: _factor(prediction, target) < 1.25**power)


@dataclass(frozen=True)
class Mean:
    """A metric as a mean over elements, then ``finish``.

    ``each(prediction, target)`` gives one number per element that counts.
    """

    metric: str
    each: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[float], float] = float
    joins: bool = False

    def empty(self, device: torch.device | str = "cpu") -> Tensor:
        """float64 [2]: sum and count."""
        return torch.zeros(2, dtype=torch.float64, device=device)

    def update(self, state: Tensor, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        values = self.each(prediction.detach()[present], target[present]).double()
        return state + torch.stack((values.sum(), values.new_tensor(values.numel()))).to(state.device)

    def value(self, state: Tensor) -> float:
        total, count = state.tolist()
        return self.finish(total / count) if count else math.nan

    def count(self, state: Tensor) -> int:
        return int(state[1])


MEANS: Mapping[str, Mean] = {
    a.metric: a
    for a in (
        Mean("accuracy", _hits),
        Mean("error", _misses),
        Mean("rmse", _squares, math.sqrt),
        Mean("mse", _squares),
        Mean("mae", _distances),
        Mean("logloss", _surprise),
        Mean("abs_err", _deep(lambda p, t: (p - t).abs())),
        Mean("rel_err", _deep(lambda p, t: (p - t).abs() / t)),
        Mean("depth_rmse", _deep(lambda p, t: (p - t).square()), math.sqrt),
        *(Mean(f"delta{k}", _within_factor(k)) for k in (1, 2, 3)),
        Mean("angle_mean", within(None)),
        Mean("within_11_25", within(11.25)),
        Mean("within_22_5", within(22.5)),
        Mean("within_30", within(30.0)),
    )
}
NAMES = frozenset({*MEANS, *CONFUSIONS, *POOLED, "auc", MEDIAN})


def accumulator(task: Task, metric: str) -> Accumulator:
    """The accumulator of one of a task's metrics."""
    if metric in MEANS:
        return MEANS[metric]
    if metric in CONFUSIONS:
        return Confusion(metric, max(2, task.outputs))
    if metric in POOLED:
        return Pooled(metric)
    return Auc() if metric == "auc" else Median()


def accumulators(task: Task) -> dict[str, Accumulator]:
    """The accumulators of a task's metrics, in its order."""
    return {metric: accumulator(task, metric) for metric in task.metrics}
