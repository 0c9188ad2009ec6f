"""A sweep of static weights as a front: how far it bulges between its points, and where it should be finer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    """How far the front sticks out between two points of the sweep; None where no three of them stand in a line.

    Under one preference a smooth front exceeds the better of two adjacent sampled points by at most an eighth of the
    second difference at that spacing (a parabola's sagitta). The second difference is taken along any three neighbours
    a, b, c in a line of weight space, scaled to the wider of the two gaps; the largest counts, and only outwards.
    Noise makes it larger on average.

    >>> bulge([Point("a", (0.0, 1.0), 1.0), Point("b", (0.5, 0.5), 2.0), Point("c", (1.0, 0.0), 1.0)])
    0.25
    """
    found = []
    for a, b, c, share in _lines(tuple(p.weights for p in points)):
        chord = (1 - share) * points[a].score + share * points[c].score
        wide, narrow = max(share, 1 - share), min(share, 1 - share)
        found.append(max(0.0, points[b].score - chord) * wide / narrow / 4)
    return max(found) if found else None


@lru_cache
def _lines(weights: tuple[tuple[float, ...], ...]) -> tuple[tuple[int, int, int, float], ...]:
    """Neighbours a, b, c in a line of weight space, and where b lies on the way from a to c."""
    at = np.array(weights)
    found = []
    for b, own in enumerate(_neighbours(at)):
        for a, c in combinations(sorted(own), 2):
            share = _between(at[a], at[b], at[c])
            if share is not None:
                found.append((a, b, c, share))
    return tuple(found)


def _between(a: Floats, b: Floats, c: Floats) -> float | None:
    """Where b lies on the way from a (0) to c (1); None off the line, or not inside it."""
    whole = c - a
    length = float(whole @ whole)
    if length < _STRAIGHT**2:
        return None
    share = float((b - a) @ whole) / length
    off = b - a - share * whole
    return share if _STRAIGHT < share < 1 - _STRAIGHT and float(np.abs(off).max()) < _STRAIGHT else None


def _neighbours(at: Floats) -> list[set[int]]:
    """Pairs of points to which no third point is closer than they are to each other (Toussaint's graph, 1980)."""
    apart = np.linalg.norm(at[:, None, :] - at[None, :, :], axis=2)
    count = len(at)
    found: list[set[int]] = [set() for _ in range(count)]
    for i, j in combinations(range(count), 2):
        third = np.maximum(apart[i], apart[j])
        if not (np.delete(third, [i, j]) < apart[i, j] - _STRAIGHT).any():
            found[i].add(j)
            found[j].add(i)
    return found


def finer(points: Sequence[Point], name: str) -> list[tuple[float, ...]]:
    """Weights to add: half-way from the named point to its nearest neighbours, at most one for each task."""
    here = next(p for p in points if p.name == name)
    others = sorted(
        (math.dist(here.weights, p.weights), p.weights) for p in points if p.name != name and p.weights != here.weights
    )
    near = others[: max(2, len(here.weights))]
    return [tuple(round((h + w) / 2, 6) for h, w in zip(here.weights, weights, strict=True)) for _, weights in near]
