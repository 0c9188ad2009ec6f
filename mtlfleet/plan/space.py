"""Search spaces: a handful of distributions, and the i-th configuration as a pure function of its address.

Configuration i of every method shares the common part of the space, so that methods are tuned on the same learning
rates. Finite axes are walked in order when they fit into the budget, else drawn without replacement. Continuous axes
follow Richtmyer's sequence: point i is frac(shift + i * sqrt(prime)), even at every length, so a larger budget keeps
the earlier points (and their finished runs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from mtlfleet.plan.streams import stream

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
MAX_CONTINUOUS = len(_PRIMES)
MAX_LATTICE = 10_000


def six_digits(value: float) -> float:
    """The nearest number with six significant decimal digits."""
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Finite:
    """A listed axis; values are whatever the hyper-parameter takes."""

    values: Sequence[Any]


@dataclass(frozen=True)
class Continuous:
    """A real axis, uniform in the value or in its logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, u: float) -> float:
        """The quantile at u in [0, 1), to six digits: the last bits of exp differ between machines."""
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        return min(self.high, max(self.low, six_digits(value)))


Axis = Finite | Continuous


@cache
def simplex(tasks: int, points: int) -> tuple[tuple[float, ...], ...]:
    """``points`` weight vectors inside the ``tasks``-simplex: the uniform one, then others by maximin distance.

    They are taken from the coarsest lattice of positive parts of m, m a multiple of ``tasks``, that has enough; none
    lies on a face, where a task would be dropped. Where that lattice is too large (about ten tasks and more) the others
    are drawn from the flat Dirichlet distribution.

    >>> simplex(2, 3)
    ((0.5, 0.5), (0.25, 0.75), (0.75, 0.25))
    """
    m = tasks
    while math.comb(m - 1, tasks - 1) < points:
        m += tasks
    if math.comb(m - 1, tasks - 1) > MAX_LATTICE:
        return _dirichlet(tasks, points)
    lattice = [
        tuple(b - a for a, b in zip((0, *cuts), (*cuts, m), strict=True))
        for cuts in combinations(range(1, m), tasks - 1)
    ]
    chosen = [(m // tasks,) * tasks]
    distance = [_squared(p, chosen[0]) for p in lattice]
    while len(chosen) < points:
        best = max(range(len(lattice)), key=lambda i: (distance[i], [-x for x in lattice[i]]))
        chosen.append(lattice[best])
        distance = [min(d, _squared(p, lattice[best])) for d, p in zip(distance, lattice, strict=True)]
    return tuple(tuple(x / m for x in point) for point in chosen)


def _dirichlet(tasks: int, points: int) -> tuple[tuple[float, ...], ...]:
    found = [(1 / tasks,) * tasks]
    for i in range(1, points):
        parts = [-math.log1p(-stream(0, "simplex", i, k) / 2.0**63) for k in range(tasks)]
        found.append(tuple(six_digits(x / sum(parts)) for x in parts))
    return tuple(found)


def _squared(a: Sequence[int], b: Sequence[int]) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class Space:
    """Named axes, in the order of their names: the order in the file decides nothing."""

    axes: tuple[tuple[str, Axis], ...] = ()
    first_prime: int = 0
    purpose: str = "search"

    @classmethod
    def of(cls, axes: Mapping[str, Axis], *, after: Space | None = None, purpose: str = "search") -> Space:
        """A space; ``after`` keeps its continuous axes off those of another space drawn beside it."""
        start = 0 if after is None else after.first_prime + len(after.continuous)
        return cls(tuple(sorted(axes.items(), key=lambda item: item[0])), start, purpose)

    @property
    def continuous(self) -> tuple[tuple[str, Continuous], ...]:
        return tuple((n, a) for n, a in self.axes if isinstance(a, Continuous))

    @property
    def finite(self) -> tuple[tuple[str, Finite], ...]:
        return tuple((n, a) for n, a in self.axes if isinstance(a, Finite))

    @property
    def points(self) -> int:
        """Number of combinations of the finite axes."""
        return math.prod(len(a.values) for _, a in self.finite)

    @property
    def size(self) -> float:
        """Number of distinct configurations; infinite with a continuous axis."""
        return math.inf if self.continuous else self.points

    def order(self, budget: int, seed: int) -> tuple[int, ...]:
        """Indices of the finite points to visit: all if they fit, else ``budget`` of them, no two the same."""
        if self.points <= budget:
            return tuple(range(self.points))
        return tuple(_distinct(self.points, budget, seed, self.purpose))

    def finite_point(self, index: int) -> dict[str, Any]:
        """The ``index``-th combination of the finite axes, the last axis fastest."""
        found: dict[str, Any] = {}
        for name, axis in reversed(self.finite):
            index, place = divmod(index, len(axis.values))
            found[name] = axis.values[place]
        return found

    def continuous_point(self, i: int, seed: int) -> dict[str, float]:
        found = {}
        for j, (name, axis) in enumerate(self.continuous):
            shift = stream(seed, f"{self.purpose}:{name}") / 2.0**63
            found[name] = axis.at(math.modf(shift + i * math.sqrt(_PRIMES[(self.first_prime + j) % MAX_CONTINUOUS]))[0])
        return found


def _distinct(total: int, count: int, seed: int, purpose: str) -> Iterator[int]:
    seen: set[int] = set()
    draw = 0
    while len(seen) < count:
        index = stream(seed, f"{purpose}:grid", draw) % total
        draw += 1
        if index not in seen:
            seen.add(index)
            yield index


def configurations(common: Space, own: Space, budget: int, seed: int) -> tuple[dict[str, Any], ...]:
    """At most ``budget`` distinct configurations; the common part of the i-th is the same whatever ``own`` is.

    Fewer come back only when the two spaces together hold fewer.

    >>> both = configurations(Space.of({"lr": Finite((1, 2))}), Space.of({"c": Finite((0, 1, 2))}), 6, 7)
    >>> sorted((x["lr"], x["c"]) for x in both)
    [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    """
    count = int(min(budget, common.size * own.size))
    theirs, ours = common.order(budget, seed), own.order(budget, seed)
    cycle = math.lcm(len(theirs), len(ours))
    found = []
    for i in range(count):
        # walking both orders in step visits lcm pairs; a shift of one per cycle reaches the others
        shared = {**common.finite_point(theirs[i % len(theirs)]), **common.continuous_point(i, seed)}
        mine = {**own.finite_point(ours[(i + i // cycle) % len(ours)]), **own.continuous_point(i, seed)}
        found.append({**shared, **mine})
    return tuple(found)
