"""More than one question at a time: adjusted p-values, each in the order given."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import stats

from mtlfleet_analysis.signflip import Floats


def _checked(p_values: npt.ArrayLike) -> Floats:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not (np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()):
        raise ValueError("p_values: expected a vector of numbers in [0, 1]")
    return p


def _step_down(p: Floats, multipliers: Floats) -> Floats:
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * multipliers), 1.0) if p.size else p
    return adjusted


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values: family-wise error, any dependence. Source: Holm 1979.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = _checked(p_values)
    return _step_down(p, np.arange(p.size, 0, -1, dtype=np.float64))


def benjamini_hochberg(p_values: npt.ArrayLike) -> Floats:
    """Benjamini and Hochberg's adjusted p-values: false discovery rate, independent or positively dependent tests."""
    p = _checked(p_values)
    return np.asarray(stats.false_discovery_control(p, method="bh"), dtype=np.float64) if p.size else p


def shaffer(p_values: npt.ArrayLike, n_treatments: int) -> Floats:
    """Shaffer's static adjusted p-values for all k (k - 1) / 2 pairs of ``n_treatments``.

    Holm's multiplier is replaced by the largest number of pairs that can still be equal, given how many are not.
    Source: Shaffer, Modified sequentially rejective multiple test procedures, JASA 81, 1986.
    """
    p = _checked(p_values)
    pairs = n_treatments * (n_treatments - 1) // 2
    if p.size != pairs:
        raise ValueError(f"p_values: {n_treatments} treatments have {pairs} pairs, found {p.size} values")
    possible = sorted(_possibly_true(n_treatments))
    multipliers = [max(s for s in possible if s <= pairs - i) for i in range(pairs)]
    return _step_down(p, np.array(multipliers, dtype=np.float64))


@cache
def _possibly_true(k: int) -> frozenset[int]:
    """Numbers of pairwise equalities that can hold among k means at once."""
    if k <= 1:
        return frozenset({0})
    return frozenset(j * (j - 1) // 2 + rest for j in range(1, k + 1) for rest in _possibly_true(k - j))
