"""A sweep of static weights as a front: how far it bulges between its points, and where it should be finer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mtlfleet_analysis.signflip import Floats

_STRAIGHT = 1e-6


@dataclass(frozen=True)
class Point:
    """One member of a sweep: its static task weights, scaled to sum one, and its mean score under a preference."""

    name: str
    weights: tuple[float, ...]
    score: float


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    return tuple(w / total for w in weights)


def bulge(points: Sequence[Point]) -> float | None:
    """The largest second difference of the scores along lines of the sweep; None where it has no three in a line.

    Between two adjacent points a front may stick out beyond both. Along any three neighbouring points a, b, c in a
    line of weight space the second difference b - (a + c) / 2, doubled, bounds that: a smooth front exceeds its best
    sampled point by at most an eighth of it. Only the outward side counts. Noise makes it larger on average.

    >>> bulge([Point("a", (0.0, 1.0), 1.0), Point("b", (0.5, 0.5), 2.0), Point("c", (1.0, 0.0), 1.0)])
    2.0
    """
    at = np.array([p.weights for p in points])
    found = []
    for b in range(len(points)):
        for a, c in combinations([i for i in range(len(points)) if i != b], 2):
            share = _between(at[a], at[b], at[c])
            if share is None or _crowded(at, a, b, c):
                continue
            chord = (1 - share) * points[a].score + share * points[c].score
            found.append(2 * max(0.0, points[b].score - chord) * max(share, 1 - share) / min(share, 1 - share))
    return max(found) if found else None


def _between(a: Floats, b: Floats, c: Floats) -> float | None:
    """Where b lies on the way from a (0) to c (1); None off the line, or not inside it."""
    whole = c - a
    length = float(whole @ whole)
    if length < _STRAIGHT**2:
        return None
    share = float((b - a) @ whole) / length
    off = b - a - share * whole
    return share if _STRAIGHT < share < 1 - _STRAIGHT and float(np.abs(off).max()) < _STRAIGHT else None


def _crowded(at: Floats, a: int, b: int, c: int) -> bool:
    """Whether another point of the sweep lies on the way from a to c."""
    return any(i not in (a, b, c) and _between(at[a], at[i], at[c]) is not None for i in range(len(at)))


def finer(points: Sequence[Point], name: str) -> list[tuple[float, ...]]:
    """Weights to add: half-way from the named point to its nearest neighbours, at most one for each task."""
    here = next(p for p in points if p.name == name)
    others = sorted(
        (math.dist(here.weights, p.weights), p.weights) for p in points if p.name != name and p.weights != here.weights
    )
    near = others[: max(2, len(here.weights))]
    return [tuple(round((h + w) / 2, 6) for h, w in zip(here.weights, weights, strict=True)) for _, weights in near]
