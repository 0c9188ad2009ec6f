"""Descriptions with their unit, sign and convention beside the number; and what a claim's estimand says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mtlfleet.plan.claims import Estimand
from mtlfleet.plan.estimands import ESTIMANDS
from mtlfleet.plan.tasks import Metric
from mtlfleet_analysis.signflip import Floats


class Measured(float):
    """A number that says what it is: ``kind``, and by the table its ``unit``, which way is ``better``, ``convention``.

    A float in every other respect; arithmetic gives plain floats, which say nothing.

    >>> measured("delta_m", 1.5), measured("delta_m", 1.5).better
    (1.5, 'lower')
    """

    kind: str

    def __new__(cls, value: float, kind: str) -> Self:
        found = super().__new__(cls, value)
        found.kind = kind
        return found

    def __getnewargs__(self) -> tuple[Any, ...]:
        return float(self), self.kind

    @property
    def unit(self) -> str:
        return ESTIMANDS[self.kind].unit

    @property
    def better(self) -> str:
        return ESTIMANDS[self.kind].better

    @property
    def convention(self) -> str:
        return ESTIMANDS[self.kind].convention


def measured(kind: str, value: float) -> Measured:
    """A value of one of the table's quantities. Raises KeyError for any other."""
    ESTIMANDS[kind]
    return Measured(value, kind)


def stated(estimand: Estimand, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """A claim's estimand as it stands beside its verdict: the effect there is an improvement, positive = better."""
    facts = ESTIMANDS[estimand.kind]
    known = metrics.get(estimand.metric or "")
    return {
        "kind": estimand.kind,
        "task": estimand.task,
        "metric": estimand.metric,
        "unit": estimand.unit,
        "metric_unit": known.unit if known else None,
        "published_better": facts.better,
        "effect_better": "higher",
        "convention": facts.convention,
        "preferences": [dict(p) for p in estimand.preferences],
        "eps": estimand.eps,
        **{name: value for name in ("target", "device_s") if (value := getattr(estimand, name)) is not None},
    }


def evp(scores: npt.ArrayLike, k: int, validation: npt.ArrayLike | None = None) -> Measured:
    r"""Expected score of the best of ``k`` tuning trials, "best" by ``validation`` (by the scores themselves if None).

    The U-form over all subsets of size k: :math:`\sum_i \binom{i-1}{k-1} / \binom{N}{k} \, y_{(i)}`, trials in order
    of validation. Drawing with replacement (Dodge et al. 2019) is biased low. Ties on validation share their scores.
    Raises ValueError for k above N / 2, where the curve leans on a few trials.

    >>> round(evp([1.0, 2.0, 3.0, 4.0], 2), 4)
    3.3333
    """
    y = np.asarray(scores, dtype=np.float64)
    v = y if validation is None else np.asarray(validation, dtype=np.float64)
    if y.ndim != 1 or v.shape != y.shape or not (np.isfinite(y).all() and np.isfinite(v).all()):
        raise ValueError("scores, validation: two finite vectors of one length; score failed trials before")
    if not 1 <= k <= max(1, y.size // 2):
        raise ValueError(f"k: {y.size} trials say something about budgets of 1 to {y.size // 2}, asked for {k}")
    shared = np.array([y[v == own].mean() for own in v])
    ranked = shared[np.argsort(v, kind="stable")]
    weights = [math.comb(i, k - 1) / math.comb(y.size, k) for i in range(y.size)]
    return measured("evp", math.fsum(w * float(s) for w, s in zip(weights, ranked, strict=True)))


def profile(scores: Sequence[float], thresholds: Sequence[float], *, higher_is_better: bool = True) -> Floats:
    """Share of runs that reach each threshold; a run without a finite score reaches none.

    Source: Dolan & More, Benchmarking optimization software with performance profiles, 2002.
    """
    sign = 1.0 if higher_is_better else -1.0
    reached = np.array([sign * s if math.isfinite(s) else -math.inf for s in scores])
    shares: Floats = (reached[None, :] >= sign * np.asarray(thresholds, dtype=np.float64)[:, None]).mean(axis=1)
    return shares


def win_rate(x: Sequence[float], y: Sequence[float]) -> Measured:
    """Share of the pairs in which x is ahead, ties half."""
    d = np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64)
    return measured("win_rate", float(np.mean((d > 0) + 0.5 * (d == 0))))


def time_to_target(
    times: Sequence[float], values: Sequence[float], target: float, *, higher_is_better: bool
) -> Measured:
    """First of ``times`` at which the value reaches ``target``; infinite if none does. Source: AlgoPerf, 2023."""
    sign = 1.0 if higher_is_better else -1.0
    hits = (t for t, v in sorted(zip(times, values, strict=True)) if sign * v >= sign * target)
    return measured("time_to_target", next(hits, math.inf))


def compute_matched(seconds: Sequence[float], values: Sequence[float], budget: float) -> Measured:
    """The last value measured within ``budget`` device seconds (tuning included by whoever counts them).

    Raises ValueError where nothing was measured by then.
    """
    within = [(s, v) for s, v in zip(seconds, values, strict=True) if s <= budget]
    if not within:
        raise ValueError(f"budget: nothing was measured within {budget:g} device seconds")
    return measured("compute_matched", max(within)[1])
