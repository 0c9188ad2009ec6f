"""Tests for paired differences beside the sign-flip: Wilcoxon, t for overlapping splits, TOST, Bayesian t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mtlfleet_analysis.signflip import Alternative, Floats, SignFlip, checked, sign_flip_test

__all__ = [
    "Equivalence",
    "SignFlip",
    "SignedRank",
    "TTest",
    "bayesian_correlated_t",
    "corrected_t_test",
    "sign_flip_test",
    "tost",
    "wilcoxon_signed_rank",
]


@dataclass(frozen=True)
class SignedRank:
    """``statistic``: Wilcoxon's T, the smaller rank sum (for one-sided tests: that of the positive differences)."""

    statistic: float
    p_value: float
    n: int
    rank_plus: float
    rank_minus: float


@dataclass(frozen=True)
class TTest:
    """A t statistic with its degrees of freedom."""

    statistic: float
    p_value: float
    n: int
    df: float


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests; ``p_value`` is the larger of the two, ``statistic`` its t."""

    statistic: float
    p_value: float
    n: int
    p_lower: float
    p_upper: float


def wilcoxon_signed_rank(differences: Sequence[float] | Floats, alternative: Alternative = "two-sided") -> SignedRank:
    """Wilcoxon's signed-rank test with the ranks of zero differences split between the signs (scipy's ``zsplit``).

    Source: Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006, section 3.1.3.
    """
    d = checked(differences)
    ranks = stats.rankdata(np.abs(d))
    zero = float(np.sum(ranks[d == 0])) / 2
    plus, minus = float(np.sum(ranks[d > 0])) + zero, float(np.sum(ranks[d < 0])) + zero
    if not d.any():  # scipy warns of a division by zero; nothing speaks against the null
        return SignedRank(plus, 1.0, d.size, plus, minus)
    found = stats.wilcoxon(d, zero_method="zsplit", alternative=alternative)
    return SignedRank(float(found.statistic), float(found.pvalue), d.size, plus, minus)


def corrected_t_test(
    differences: Sequence[float] | Floats, test_fraction: float, alternative: Alternative = "two-sided"
) -> TTest:
    """Paired t test for differences from overlapping resampled splits: variance times (1/n + f / (1 - f)).

    ``test_fraction`` f: share of the samples that each split tests on; 0 gives the ordinary paired t test.
    Source: Nadeau & Bengio, Inference for the generalization error, Machine Learning 52, 2003.
    """
    d = checked(differences)
    _check_fraction(test_fraction, d.size)
    scale = float(np.sqrt(np.var(d, ddof=1) * (1 / d.size + test_fraction / (1 - test_fraction))))
    t = student_t(float(np.mean(d)), scale)
    return TTest(t, t_p_value(t, d.size - 1, alternative), d.size, d.size - 1)


def tost(differences: Sequence[float] | Floats, margin: float) -> Equivalence:
    """Two one-sided paired t tests of "the mean difference lies inside (-margin, margin)".

    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987.
    """
    d = checked(differences)
    if not margin > 0:
        raise ValueError(f"margin: expected a positive number, found {margin}")
    _check_fraction(0.0, d.size)
    scale = float(np.std(d, ddof=1) / np.sqrt(d.size))
    low, high = student_t(float(np.mean(d)) + margin, scale), student_t(float(np.mean(d)) - margin, scale)
    p_low, p_high = t_p_value(low, d.size - 1, "greater"), t_p_value(high, d.size - 1, "less")
    return Equivalence(low if p_low >= p_high else high, max(p_low, p_high), d.size, p_low, p_high)


def bayesian_correlated_t(
    differences: Sequence[float] | Floats, test_fraction: float, rope: float
) -> tuple[float, float, float]:
    """Posterior probabilities (left, rope, right) that the mean difference is below -rope, within, above rope.

    Source: Corani & Benavoli, A Bayesian approach for comparing cross-validated algorithms, Machine Learning 100, 2015.
    """
    d = checked(differences)
    _check_fraction(test_fraction, d.size)
    if rope < 0:
        raise ValueError(f"rope: expected a number >= 0, found {rope}")
    mean = float(np.mean(d))
    scale = float(np.sqrt(np.var(d, ddof=1) * (1 / d.size + test_fraction / (1 - test_fraction))))
    if scale == 0:
        return float(mean < -rope), float(-rope <= mean <= rope), float(mean > rope)
    left = float(stats.t.cdf((-rope - mean) / scale, d.size - 1))
    right = float(stats.t.sf((rope - mean) / scale, d.size - 1))
    return left, 1 - left - right, right


def student_t(mean: float, scale: float) -> float:
    """mean / scale, also where nothing varies: 0 for a zero mean, else infinite."""
    if scale > 0:
        return mean / scale
    return 0.0 if mean == 0 else float(np.copysign(np.inf, mean))


def t_p_value(t: float, df: float, alternative: Alternative) -> float:
    if alternative == "greater":
        return float(stats.t.sf(t, df))
    if alternative == "less":
        return float(stats.t.cdf(t, df))
    return min(1.0, 2 * float(stats.t.sf(abs(t), df)))


def _check_fraction(test_fraction: float, n: int) -> None:
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction: expected a number in [0, 1), found {test_fraction}")
    if n < 2:
        raise ValueError(f"differences: expected at least 2, found {n}")
