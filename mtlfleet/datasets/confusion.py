"""Metrics of a confusion matrix that is pooled over the whole split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlfleet.datasets.losses import aligned


def _over(part: Tensor, whole: Tensor) -> float:
    """Mean of part / whole over the classes where whole is not 0; NaN without any."""
    there = whole > 0
    return float((part[there] / whole[there]).mean()) if bool(there.any()) else math.nan


def class_iou(counts: Tensor) -> Tensor:
    """[K] intersection over union of each class, NaN for one that is neither labelled nor predicted; counts [K, K + 1]
    hold labels in rows, predictions in columns, and in the last column predictions that are no class."""
    hits = counts.diagonal()
    return hits / (counts.sum(1) + counts[:, :-1].sum(0) - hits)


def _miou(counts: Tensor) -> float:
    hits = counts.diagonal()
    return _over(hits, counts.sum(1) + counts[:, :-1].sum(0) - hits)


def _right(counts: Tensor) -> float:
    return float(counts.diagonal().sum() / counts.sum())


def _macro_f1(counts: Tensor) -> float:
    return _over(2 * counts.diagonal(), counts.sum(1) + counts[:, :-1].sum(0))


def _f1(counts: Tensor) -> float:
    whole = counts[1].sum() + counts[:, 1].sum()
    return float(2 * counts[1, 1] / whole) if whole > 0 else 0.0  # nobody positive and nobody called so: 0, as usual


def _balanced(counts: Tensor) -> float:
    return _over(counts.diagonal(), counts.sum(1))


CONFUSIONS: Mapping[str, Callable[[Tensor], float]] = {
    "miou": _miou,
    "pixel_accuracy": _right,
    "macro_f1": _macro_f1,
    "f1": _f1,
    "balanced_accuracy": _balanced,
}


@dataclass(frozen=True)
class Confusion:
    """Counts of (label, prediction) pairs, whole numbers in float64 (exact to 2^53); labels below 0 are ignored.

    Means over classes leave out classes that do not occur: 0 / 0 would make the mean NaN.
    """

    metric: str
    classes: int
    joins: bool = False

    def empty(self, device: torch.device | str = "cpu") -> Tensor:
        """float64 [K, K + 1]; the last column counts predictions that are no class."""
        return torch.zeros(self.classes, self.classes + 1, dtype=torch.float64, device=device)

    def update(self, state: Tensor, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        given, labels = prediction.detach()[present], target[present]
        if given.dim() > labels.dim() and given.shape[1] > 1:
            chosen, finite = given.argmax(1), given.isfinite().all(1)
        else:
            logit = aligned(given, labels)
            chosen, finite = (logit > 0).long(), logit.isfinite()
        chosen = torch.where(finite, chosen, torch.full_like(chosen, self.classes))
        known = labels >= 0
        pairs = labels[known].long() * (self.classes + 1) + chosen[known]
        counts = torch.bincount(pairs, minlength=self.classes * (self.classes + 1))
        return state + counts.view(self.classes, self.classes + 1).to(state)

    def value(self, state: Tensor) -> float:
        return CONFUSIONS[self.metric](state) if state.sum() > 0 else math.nan

    def count(self, state: Tensor) -> int:
        return int(state.sum())
