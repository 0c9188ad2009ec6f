"""Rank tests over several treatments: Friedman, Iman-Davenport, Quade, Nemenyi. No verdict rests on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from mtlfleet_analysis.signflip import Floats

Ties = Literal["average", "min", "max", "dense"]


@dataclass(frozen=True)
class ImanDavenport:
    """Friedman's statistic as an F with (k - 1, (k - 1)(n - 1)) degrees of freedom."""

    statistic: float
    p_value: float
    n: int


@dataclass(frozen=True)
class Friedman:
    """``statistic`` chi-squared with k - 1 degrees of freedom over ``n`` blocks; ``mean_ranks``: 1 is best."""

    statistic: float
    p_value: float
    n: int
    mean_ranks: tuple[float, ...]
    iman_davenport: ImanDavenport


@dataclass(frozen=True)
class Quade:
    """``statistic`` F with (k - 1, (k - 1)(n - 1)) degrees of freedom over ``n`` blocks."""

    statistic: float
    p_value: float
    n: int


def _table(scores: npt.ArrayLike) -> Floats:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 2:
        raise ValueError(f"scores: expected [blocks >= 2, treatments >= 2], found shape {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("scores: every one must be finite")
    return table


def friedman_test(scores: npt.ArrayLike, *, higher_is_better: bool = True, tie_correction: bool = False) -> Friedman:
    """Friedman's test on ``scores`` [blocks, treatments], with the Iman-Davenport F.

    Without ``tie_correction`` the statistic is Demsar's 12n/(k(k+1)) (sum R^2 - k(k+1)^2/4); with it, scipy's and R's.
    Source: Demsar 2006, section 3.2.2; Iman & Davenport 1980.
    """
    table = _table(scores)
    n, k = table.shape
    ranks = stats.rankdata(-table if higher_is_better else table, axis=1)
    mean_ranks = ranks.mean(axis=0)
    chi2 = 12 * n / (k * (k + 1)) * (float(np.sum(mean_ranks**2)) - k * (k + 1) ** 2 / 4)
    chi2 = max(0.0, chi2)
    if tie_correction:
        ties = sum(float(np.sum(c**3 - c)) for c in (np.unique(r, return_counts=True)[1] for r in ranks))
        shrink = 1 - ties / (n * k * (k**2 - 1))
        chi2 = chi2 / shrink if shrink > 0 else 0.0
    df = (k - 1, (k - 1) * (n - 1))
    rest = n * (k - 1) - chi2
    f = (n - 1) * chi2 / rest if rest > 1e-9 else float("inf")
    return Friedman(
        chi2,
        float(stats.chi2.sf(chi2, k - 1)),
        n,
        tuple(float(r) for r in mean_ranks),
        ImanDavenport(f, float(stats.f.sf(f, *df)), n),
    )


def quade_test(scores: npt.ArrayLike) -> Quade:
    """Quade's test on ``scores`` [blocks, treatments]: blocks weigh by the rank of their range.

    Source: Conover, Practical Nonparametric Statistics, 3rd edition, 1999, section 5.8.
    """
    table = _table(scores)
    n, k = table.shape
    ranks = stats.rankdata(table, axis=1)
    sizes = stats.rankdata(np.ptp(table, axis=1))
    scaled = sizes[:, None] * (ranks - (k + 1) / 2)
    total, between = float(np.sum(scaled**2)), float(np.sum(scaled.sum(axis=0) ** 2)) / n
    rest = total - between
    f = (n - 1) * between / rest if rest > 1e-12 * max(total, 1.0) else float("inf") if between > 0 else 0.0
    return Quade(f, float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))), n)


def nemenyi_quantile(k: int, alpha: float) -> float:
    """Upper ``alpha`` quantile of the studentized range of k treatments, infinite df, over the square root of two."""
    return float(stats.studentized_range.ppf(1 - alpha, k, np.inf) / np.sqrt(2))


def nemenyi_critical_difference(k: int, n: int, alpha: float = 0.05) -> float:
    """How far two mean ranks of ``k`` treatments over ``n`` blocks must be apart. Source: Demsar 2006, section 3.2.2.

    >>> round(nemenyi_critical_difference(4, 14, 0.05), 2)
    1.25
    """
    if k < 2 or n < 1:
        raise ValueError(f"expected k >= 2 treatments and n >= 1 blocks, found k={k}, n={n}")
    return nemenyi_quantile(k, alpha) * float(np.sqrt(k * (k + 1) / (6 * n)))


def mean_rank(table: npt.ArrayLike, higher_is_better: Sequence[bool] | npt.ArrayLike, ties: Ties = "average") -> Floats:
    """Mean rank [methods] of ``table`` [methods, metrics]; 1 is best. It depends on which methods are in the table.

    >>> mean_rank([[0.9, 0.1], [0.8, 0.3]], [True, False]).tolist()
    [1.0, 2.0]
    """
    values = np.asarray(table, dtype=np.float64)
    up = np.asarray(higher_is_better, dtype=bool)
    if values.ndim != 2 or up.shape != (values.shape[1],):
        raise ValueError(f"expected [methods, metrics] and one direction a metric, found {values.shape} and {up.shape}")
    ranks = stats.rankdata(np.where(up, -values, values), method=ties, axis=0)
    means: Floats = np.asarray(ranks, dtype=np.float64).mean(axis=1)
    return means
