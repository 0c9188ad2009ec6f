"""What an experiment finds, and the limit it is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from mtlfleet_analysis.calibration.noise import Noise

ERROR, COVERAGE = 0.0597, 0.94  # 0.05 and two of its standard errors at 2,000 studies; a percent below nominal
ENOUGH = 2000
WIDE = 3.1  # standard errors that a limit gives way by when fewer studies are simulated: one honest cell in a thousand


def widened(limit: float, nominal: float, studies: int, *, at_most: bool) -> float:
    """``limit``, or further out where so few studies say little: ``nominal`` plus or minus 3.1 standard errors."""
    if studies >= ENOUGH:
        return limit
    room = WIDE * sqrt(nominal * (1 - nominal) / studies)
    return max(limit, nominal + room) if at_most else min(limit, nominal - room)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measured rate. ``control``: a common practice, which the goal's limit must catch."""

    goal: str
    what: str
    cell: str
    found: float
    limit: float
    at_most: bool
    studies: int
    control: bool = False

    @property
    def within(self) -> bool:
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    @property
    def error(self) -> float:
        """Monte-Carlo standard error of the rate, two successes and two failures added so that none is zero."""
        share = (self.found * self.studies + 2) / (self.studies + 4)
        return sqrt(max(0.0, share * (1 - share)) / self.studies)

    @property
    def limited(self) -> bool:
        """Whether there is anything to keep; a rate without a limit is only shown."""
        return self.limit != 1.0 or not self.at_most

    @property
    def fine(self) -> bool:
        """A rule of ours keeps its limit; a negative control breaks it."""
        return self.within is not self.control


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How rates become findings of one cell."""

    goal: str
    cell: str
    studies: int

    def error(self, what: str, hits: Sequence[bool], level: float = 0.05, *, control: bool = False) -> Finding:
        """A rate of wrong answers; a control is held to the goal's own limit, however few the studies."""
        nominal_limit = level * ERROR / 0.05
        limit = widened(nominal_limit, level, self.studies, at_most=True)
        return self._made(what, hits, limit, at_most=True, control=control)

    def coverage(self, what: str, hits: Sequence[bool], *, control: bool = False) -> Finding:
        limit = widened(COVERAGE, 0.95, self.studies, at_most=False)
        return self._made(what, hits, limit, at_most=False, control=control)

    def power(self, what: str, hits: Sequence[bool], floor: float) -> Finding:
        return self._made(what, hits, widened(floor, floor, self.studies, at_most=False), at_most=False, control=False)

    def rate(self, what: str, hits: Sequence[bool], limit: float, *, at_most: bool = True) -> Finding:
        return self._made(what, hits, limit, at_most=at_most, control=False)

    def _made(self, what: str, hits: Sequence[bool], limit: float, *, at_most: bool, control: bool) -> Finding:
        return Finding(
            goal=self.goal,
            what=what,
            cell=self.cell,
            found=float(np.mean(hits)),
            limit=limit,
            at_most=at_most,
            studies=self.studies,
            control=control,
        )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One goal in one cell. ``most``: studies beyond which nothing is gained for what they cost; ``core``: also run by
    the tests, with few studies."""

    goal: str
    cell: str
    run: Callable[[Noise, int, int], list[Finding]]  # noise, studies, seed
    most: int | None = None
    core: bool = False

    def findings(self, noise: Noise, studies: int, seed: int) -> list[Finding]:
        return self.run(noise, self.number(studies), seed)

    def number(self, studies: int) -> int:
        """How many studies are simulated where ``studies`` are asked for."""
        return min(studies, self.most or studies)
