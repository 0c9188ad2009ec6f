"""Intervals and power for the mean of stratum means (these datasets) or of dataset means (datasets like these)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mtlfleet_analysis.signflip import Floats, checked
from mtlfleet_analysis.significance import student_t, t_p_value


@dataclass(frozen=True)
class Mean:
    """An estimate with its standard error and degrees of freedom; both NaN where a stratum has a single pair."""

    estimate: float
    se: float
    df: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided interval, e.g. ``confidence=0.95``."""
        if not np.isfinite(self.se):
            return float("nan"), float("nan")
        half = float(stats.t.ppf((1 + confidence) / 2, self.df)) * self.se if self.se > 0 else 0.0
        return self.estimate - half, self.estimate + half

    def limits(self, alpha: float) -> tuple[float, float]:
        """The two one-sided (1 - alpha) limits."""
        return self.interval(1 - 2 * alpha)

    def above(self, theta: float) -> float:
        """p-value of "the mean is at most theta"."""
        return t_p_value(student_t(self.estimate - theta, self.se), self.df, "greater") if np.isfinite(self.se) else 1.0

    def below(self, theta: float) -> float:
        """p-value of "the mean is at least theta"."""
        return t_p_value(student_t(self.estimate - theta, self.se), self.df, "less") if np.isfinite(self.se) else 1.0


def stratified_mean(differences: Sequence[float] | Floats, strata: Sequence[Hashable]) -> Mean:
    """Mean of the stratum means; standard error from the strata's own variances, Satterthwaite's degrees of freedom."""
    d = checked(differences)
    groups = [np.sort(d[[s == label for s in strata]]) for label in sorted(set(strata), key=repr)]
    estimate = float(np.mean([g.mean() for g in groups]))
    if any(g.size < 2 for g in groups):
        return Mean(estimate, float("nan"), float("nan"))
    parts = np.array([g.var(ddof=1) / g.size for g in groups])
    total = float(parts.sum())
    free = np.array([g.size - 1 for g in groups], dtype=np.float64)
    df = total**2 / float(np.sum(parts**2 / free)) if total > 0 else float(free.sum())
    return Mean(estimate, float(np.sqrt(total)) / len(groups), df)


def mean_of_means(means: Sequence[float] | Floats) -> Mean:
    """Mean of dataset means with D - 1 degrees of freedom: what a new dataset like these would show."""
    m = np.sort(checked(means))
    if m.size < 2:
        return Mean(float(m.mean()), float("nan"), float("nan"))
    return Mean(float(m.mean()), float(m.std(ddof=1) / np.sqrt(m.size)), m.size - 1)


def resampled_mean(means: Sequence[float] | Floats, test_fraction: float) -> Mean:
    """Mean over overlapping resampled splits of one dataset: variance times (1/n + f / (1 - f)).

    Source: Nadeau & Bengio, Inference for the generalization error, Machine Learning 52, 2003.
    """
    m = np.sort(checked(means))
    if m.size < 2:
        return Mean(float(m.mean()), float("nan"), float("nan"))
    spread = float(m.var(ddof=1)) * (1 / m.size + test_fraction / (1 - test_fraction))
    return Mean(float(m.mean()), float(np.sqrt(spread)), m.size - 1)


def power_above(distance: float, se: float, df: float, alpha: float) -> float:
    """P(the one-sided t test at ``alpha`` rejects) when the truth lies ``distance`` beyond the null."""
    if not (np.isfinite(se) and df > 0):
        return float("nan")
    if se == 0:
        return float(distance > 0)
    shift = distance / se
    if shift > 30:  # scipy's non-central t loses its digits out there, and the answer is one
        return 1.0
    return float(np.clip(stats.nct.sf(stats.t.ppf(1 - alpha, df), df, shift), 0.0, 1.0))


def paired_power(effect_sd: float, n: int, alpha: float = 0.05, *, two_sided: bool = True) -> float:
    """Power of the paired t test of ``n`` pairs for a mean of ``effect_sd`` standard deviations. Source: Cohen 1988."""
    if n < 2:
        return 0.0
    tail = alpha / 2 if two_sided else alpha
    return power_above(abs(effect_sd), 1 / np.sqrt(n), n - 1, tail)


def pairs_needed(effect_sd: float, power: float = 0.8, alpha: float = 0.05, *, two_sided: bool = True) -> int:
    """Smallest number of pairs with at least this power.

    >>> [pairs_needed(d) for d in (0.5, 0.8, 0.2)]
    [34, 15, 199]
    """
    if not effect_sd:
        raise ValueError("effect_sd: a zero effect is never found")
    low, high = 1, 2
    while paired_power(effect_sd, high, alpha, two_sided=two_sided) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if paired_power(effect_sd, middle, alpha, two_sided=two_sided) < power:
            low = middle
        else:
            high = middle
    return high
