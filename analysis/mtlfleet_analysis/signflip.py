"""The sign-flip test: under the null a paired difference is as likely +d as -d, so flip and count.

Exact up to 22 differences, by meeting in the middle; beyond that 99,999 random flips with p = (b + 1) / (B + 1), drawn
from a seed made of the data, so that the same numbers give the same p on every machine and in every row order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

EXACT_UP_TO = 22
FLIPS = 99_999
_CHUNK = 20_000


@dataclass(frozen=True)
class SignFlip:
    """``statistic``: the mean of the stratum means; ``p_value``; ``n`` differences; ``exact``: all flips counted."""

    statistic: float
    p_value: float
    n: int
    exact: bool


def weights_of(strata: Sequence[Hashable]) -> Floats:
    """Weights under which a sum of differences is the mean of the stratum means; they add up to one."""
    sizes: dict[Hashable, int] = {}
    for label in strata:
        sizes[label] = sizes.get(label, 0) + 1
    return np.array([1.0 / (len(sizes) * sizes[label]) for label in strata])


def checked(differences: Sequence[float] | Floats) -> Floats:
    """A vector of finite differences. Raises ValueError for an empty, nested or non-finite one."""
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size == 0:
        raise ValueError(f"differences: expected a non-empty vector, found shape {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError("differences: every one must be finite; score failed runs before testing")
    return d


def sign_flip_test(
    differences: Sequence[float] | Floats,
    strata: Sequence[Hashable] | None = None,
    alternative: Alternative = "two-sided",
    *,
    seed: int | None = None,
    flips: int = FLIPS,
) -> SignFlip:
    """Randomisation test of "the mean of the stratum means is zero" for paired differences.

    Parameters
    ----------
    differences:  [n] paired differences.
    strata:       [n] labels; each stratum counts the same, whatever its size. None: one stratum.
    alternative:  ``two-sided``, ``greater`` or ``less``.
    seed:         of the random flips used above 22 differences; None: made of the absolute differences.

    Source: Fisher, The Design of Experiments, 1935, section 21; Phipson & Smyth 2010 for (b + 1) / (B + 1).

    >>> sign_flip_test([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]).p_value * 2**15
    1726.0
    """
    d = checked(differences)
    labels: Sequence[Hashable] = strata if strata is not None else [0] * d.size
    if len(labels) != d.size:
        raise ValueError(f"strata: expected {d.size} labels, found {len(labels)}")
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative: expected two-sided, greater or less, found {alternative!r}")
    terms = weights_of(labels) * d
    statistic = float(np.sum(np.sort(terms)))
    if alternative == "less":
        terms, observed = -terms, -statistic
    else:
        observed = abs(statistic) if alternative == "two-sided" else statistic
    tolerance = 1e-12 * float(np.sum(np.sort(np.abs(terms))))
    threshold = observed - tolerance
    both = alternative == "two-sided"
    if both and observed <= tolerance:
        return SignFlip(statistic, 1.0, d.size, d.size <= EXACT_UP_TO)
    # in order of size, so that neither row order nor a change of all signs alters a sum or a draw
    magnitudes = np.sort(np.abs(terms))
    if d.size <= EXACT_UP_TO:
        extreme = _count_at_least(magnitudes, threshold) * (2 if both else 1)
        return SignFlip(statistic, min(1.0, extreme / 2.0**d.size), d.size, True)
    extreme = 0
    for chunk in _signs(d.size, flips, seed if seed is not None else _seed_of(magnitudes)):
        sums = chunk @ magnitudes
        extreme += int(np.count_nonzero((np.abs(sums) if both else sums) >= threshold))
    return SignFlip(statistic, (extreme + 1) / (flips + 1), d.size, False)


@cache
def _all_signs(n: int) -> Floats:
    """[2^n, n]: every way to sign n terms."""
    counted = np.arange(2**n, dtype=np.int64)
    return ((counted[:, None] >> np.arange(n)) & 1).astype(np.float64) * 2.0 - 1.0


def _count_at_least(terms: Floats, threshold: float) -> int:
    """How many of the 2^n signed sums reach ``threshold``: two sorted halves instead of all of them."""
    left, right = (_all_signs(half.size) @ half for half in (terms[::2], terms[1::2]))
    right = np.sort(right)
    return int(np.sum(right.size - np.searchsorted(right, threshold - left, side="left")))


def _seed_of(values: Floats) -> int:
    return int.from_bytes(hashlib.blake2b(values.tobytes(), digest_size=8).digest(), "big")


def _bits(n: int, flips: int, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    for start in range(0, flips, _CHUNK):
        rows = min(_CHUNK, flips - start)
        packed = np.frombuffer(rng.bytes(rows * ((n + 7) // 8)), dtype=np.uint8).reshape(rows, -1)
        yield np.unpackbits(packed, axis=1)[:, :n]


def _signs(n: int, flips: int, seed: int) -> Iterator[Floats]:
    for bits in _bits(n, flips, seed):
        yield bits.astype(np.float64) * 2.0 - 1.0


def sign_rows(n: int, flips: int, seed: int, *, exact_up_to: int) -> Iterator[Floats]:
    """Rows of n signs: every one of the 2^n up to ``exact_up_to``, else ``flips`` drawn ones, in chunks."""
    if n > exact_up_to:
        yield from _signs(n, flips, seed)
        return
    yield _all_signs(n)


@dataclass(frozen=True)
class FlipMeans:
    """The weighted mean of every flipped subset, which answers all shifts at once.

    A flip of the subset F beats the shift t exactly if the weighted mean of F is at most t. ``empty``: drawn flips that
    flip nothing and so always count; ``total``: how many flips there are, the identity included.
    """

    means: Floats
    empty: int
    total: int
    slack: float

    @classmethod
    def of(
        cls, differences: Sequence[float] | Floats, strata: Sequence[Hashable], *, seed: int = 0, flips: int = FLIPS
    ) -> FlipMeans:
        d, weights = checked(differences), weights_of(strata)
        order = np.lexsort((weights, d))
        d, weights = d[order], weights[order]
        slack = 1e-12 * float(np.max(np.abs(d)))
        if d.size <= EXACT_UP_TO:
            return cls(_all_subset_means(d * weights, weights), 0, 2**d.size, slack)
        means, empty = _drawn_subset_means(d * weights, weights, flips, seed)
        return cls(means, empty, flips + 1, slack)

    @property
    def _always(self) -> int:
        """Flips that count at every shift: the identity, and those that flip nothing."""
        return 1 + self.empty

    def above(self, theta: float) -> float:
        """p-value of "the mean is at most theta"."""
        return (self._always + int(np.count_nonzero(self.means <= theta + self.slack))) / self.total

    def below(self, theta: float) -> float:
        """p-value of "the mean is at least theta"."""
        return (self._always + int(np.count_nonzero(self.means >= theta - self.slack))) / self.total

    def limits(self, alpha: float) -> tuple[float, float]:
        """One-sided (1 - alpha) limits (L, U): the shifts that are not rejected. Infinite where none can be."""
        rank = int(np.floor(alpha * self.total + 1e-9)) - self.empty
        if rank < 1 or rank > self.means.size:
            return float("-inf"), float("inf")
        low = float(np.partition(self.means, rank - 1)[rank - 1])
        high = float(np.partition(self.means, self.means.size - rank)[self.means.size - rank])
        return low, high


def _all_subset_means(terms: Floats, weights: Floats) -> Floats:
    sums, masses = np.zeros(1), np.zeros(1)
    for term, weight in zip(terms, weights, strict=True):
        sums = np.concatenate((sums, sums + term))
        masses = np.concatenate((masses, masses + weight))
    means: Floats = sums[1:] / masses[1:]
    return means


def _drawn_subset_means(terms: Floats, weights: Floats, flips: int, seed: int) -> tuple[Floats, int]:
    parts: list[Floats] = []
    empty = 0
    for bits in _bits(terms.size, flips, seed):
        picked = bits.astype(np.float64)
        mass = picked @ weights
        some = mass > 0
        empty += int(np.count_nonzero(~some))
        parts.append((picked[some] @ terms) / mass[some])
    return np.concatenate(parts), empty
