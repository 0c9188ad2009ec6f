"""Metrics of all samples at once: areas under curves, and shares of variance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlfleet.datasets.losses import aligned


@dataclass(frozen=True)
class Auc:
    """The chance that a positive is scored above a negative, ties counting half: exact, from all scores.

    The state is rows (score, label), 16 bytes a sample; ranks put theirs together.
    """

    joins: bool = True

    def empty(self, device: torch.device | str = "cpu") -> Tensor:
        """float64 [0, 2]."""
        return torch.zeros(0, 2, dtype=torch.float64, device=device)

    def update(self, state: Tensor, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        labels = target[present]
        scores = aligned(prediction.detach()[present], labels)
        return torch.cat((state, torch.stack((scores.flatten(), labels.flatten()), 1).to(state)))

    def value(self, state: Tensor) -> float:
        scores, positive = state[:, 0], state[:, 1] > 0.5
        ups, downs = int(positive.sum()), int((~positive).sum())
        if not ups or not downs or not bool(scores.isfinite().all()):
            return math.nan
        _, group, size = torch.unique(scores, return_inverse=True, return_counts=True)
        rank = size.cumsum(0).double() - (size - 1) / 2  # the mean rank of equal scores, from 1
        return float((rank[group][positive].sum() - ups * (ups + 1) / 2) / (ups * downs))

    def count(self, state: Tensor) -> int:
        return len(state)


@dataclass(frozen=True)
class Pooled:
    """R^2 or the concordance correlation, from sums of first and second moments around 0, in float64.

    Meant for targets of ordinary scale: a mean that is 10^6 times the spread would cost twelve digits.
    """

    metric: str
    joins: bool = False

    def empty(self, device: torch.device | str = "cpu") -> Tensor:
        """float64 [6]: n, sums of p, y, p^2, y^2 and p y."""
        return torch.zeros(6, dtype=torch.float64, device=device)

    def update(self, state: Tensor, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        y = target[present].double().flatten()
        p = aligned(prediction.detach()[present], target[present]).double().flatten()
        sums = (y.new_tensor(len(y)), p.sum(), y.sum(), p.square().sum(), y.square().sum(), (p * y).sum())
        return state + torch.stack(sums).to(state.device)

    def value(self, state: Tensor) -> float:
        return POOLED[self.metric](state) if state[0] > 0 else math.nan

    def count(self, state: Tensor) -> int:
        return int(state[0])


def _determination(state: Tensor) -> float:
    n, _, y, pp, yy, py = state.tolist()
    spread = yy - y * y / n
    return 1 - (pp - 2 * py + yy) / spread if spread > 0 else math.nan


def _concordance(state: Tensor) -> float:
    n, p, y, pp, yy, py = state.tolist()
    both = (pp - p * p / n) + (yy - y * y / n) + (p - y) ** 2 / n
    return 2 * (py - p * y / n) / both if both > 0 else math.nan


POOLED: Mapping[str, Callable[[Tensor], float]] = {"r2": _determination, "ccc": _concordance}
