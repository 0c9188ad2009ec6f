"""Angles between predicted and true surface normals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlfleet.datasets.losses import labelled

MEDIAN = "angle_median"
BINS = 18_000  # of 0.01 degrees


def angles(prediction: Tensor, target: Tensor) -> Tensor:
    """Degrees, float64 [n], of the n pixels that have a normal; [B, 3, H, W] each, of any length.

    A prediction of length 0 is 90 degrees off, one that is not finite 180.
    """
    mask = labelled("normals", target)
    mine, true = (x.movedim(1, -1)[mask].double() for x in (prediction, target))
    cosine = (mine * true).sum(1) / (mine.norm(dim=1) * true.norm(dim=1)).clamp(min=1e-300)
    found = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    return torch.where(mine.isfinite().all(1), found, torch.full_like(found, 180.0))


def within(limit: float | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Whether each angle is below ``limit`` degrees; without a limit, the angle itself."""

    def each(prediction: Tensor, target: Tensor) -> Tensor:
        found = angles(prediction, target)
        return found if limit is None else found < limit

    return each


@dataclass(frozen=True)
class Median:
    """The median angle over all pixels, from a histogram of 0.01 degrees: the lower median's bin, its middle.

    A mean of batch medians, as in the published code, depends on the batches.
    """

    joins: bool = False

    def empty(self, device: torch.device | str = "cpu") -> Tensor:
        """float64 [18000]: how many angles fell into each bin."""
        return torch.zeros(BINS, dtype=torch.float64, device=device)

    def update(self, state: Tensor, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        found = angles(prediction.detach()[present], target[present])
        bins = (found * (BINS / 180)).long().clamp(0, BINS - 1)
        return state + torch.bincount(bins, minlength=BINS).to(state)

    def value(self, state: Tensor) -> float:
        n = int(state.sum())
        if not n:
            return math.nan
        place = int(torch.searchsorted(state.cumsum(0), torch.tensor(float((n + 1) // 2), dtype=torch.float64)))
        return (place + 0.5) * 180 / BINS

    def count(self, state: Tensor) -> int:
        return int(state.sum())
