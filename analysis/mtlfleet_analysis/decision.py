"""The decision table: which shifted nulls a test rejects, and what that says about a claim."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.signflip import EXACT_UP_TO, FLIPS, FlipMeans, Floats, sign_flip_test

Answer = Literal["supported", "refuted", "inconclusive", "invalid", "observed"]


class ShiftTest(Protocol):
    """A test of "the effect is at most / at least theta", for any theta."""

    def above(self, theta: float) -> float:
        """p-value of "the effect is at most theta"."""
        ...

    def below(self, theta: float) -> float:
        """p-value of "the effect is at least theta"."""
        ...

    def limits(self, alpha: float) -> tuple[float, float]:
        """One-sided (1 - alpha) limits."""
        ...


@dataclass(frozen=True)
class FlipTest:
    """The stratified sign-flip test of paired differences, shifted by theta.

    Above 22 differences one set of random flips answers every shift, so p-values and limits agree with each other.
    """

    differences: Floats
    strata: tuple[Hashable, ...]
    seed: int
    flips: int = FLIPS

    @cached_property
    def _flips(self) -> FlipMeans:
        return FlipMeans.of(self.differences, self.strata, seed=self.seed, flips=self.flips)

    def above(self, theta: float) -> float:
        if self.differences.size <= EXACT_UP_TO:
            return sign_flip_test(self.differences - theta, self.strata, "greater").p_value
        return self._flips.above(theta)

    def below(self, theta: float) -> float:
        if self.differences.size <= EXACT_UP_TO:
            return sign_flip_test(self.differences - theta, self.strata, "less").p_value
        return self._flips.below(theta)

    def limits(self, alpha: float) -> tuple[float, float]:
        return self._flips.limits(alpha)

    @classmethod
    def of(cls, differences: Sequence[float], strata: Sequence[Hashable], seed: int, flips: int = FLIPS) -> FlipTest:
        return cls(np.asarray(differences, dtype=np.float64), tuple(strata), seed, flips)


@dataclass(frozen=True)
class Decision:
    """A verdict with its qualification: ``negligible``, ``equivalent``, ``worse`` or nothing."""

    answer: Answer
    label: str = ""


def claim_p(claim: Claim, test: ShiftTest, eps: float = 0.0) -> float:
    """The one-sided p-value of the null that the claim would reject; ``eps``: by how much a sweep must be beaten."""
    if claim.alternative == "superiority":
        return test.above(eps)
    if claim.alternative == "non_inferiority":
        return test.above(-claim.margin)
    if claim.alternative == "no_better_than":
        return test.below(claim.margin)
    return max(test.above(-claim.margin), test.below(claim.margin))


def decide(claim: Claim, test: ShiftTest, alpha: float, eps: float = 0.0) -> Decision:
    """The verdict at level ``alpha``: theta is the effect, delta the margin, L and U the one-sided limits.

    superiority: supported if L > eps, which is 0 but for sweeps (negligible if also U < delta), refuted if U < delta.
    non_inferiority: L > -delta, U < -delta. equivalence: L > -delta and U < delta, L > delta or U < -delta.
    no_better_than: U < delta, L > delta. The nulls theta <= 0 and theta >= delta exclude each other, so asking both
    costs no level.
    """
    delta = claim.margin

    def low(theta: float) -> bool:  # L > theta
        return test.above(theta) <= alpha

    def high(theta: float) -> bool:  # U < theta
        return test.below(theta) <= alpha

    equivalent = delta > 0 and low(-delta) and high(delta)
    within = "equivalent" if equivalent else ""
    rules: dict[str, Callable[[], list[tuple[bool, Answer, str]]]] = {
        "superiority": lambda: [
            (low(eps), "supported", "negligible" if delta > 0 and high(delta) else ""),
            (high(delta), "refuted", within or ("worse" if high(0.0) else "")),
        ],
        "non_inferiority": lambda: [(low(-delta), "supported", within), (high(-delta), "refuted", "worse")],
        "equivalence": lambda: [
            (equivalent, "supported", within),
            (low(delta), "refuted", "better"),
            (high(-delta), "refuted", "worse"),
        ],
        "no_better_than": lambda: [
            (high(delta), "supported", within or ("worse" if high(0.0) else "")),
            (low(delta), "refuted", "better"),
        ],
    }
    for holds, answer, label in rules[claim.alternative]():
        if holds:
            return Decision(answer, label)
    return Decision("inconclusive")


def holm_levels(p_values: Sequence[float], alphas: Sequence[float]) -> list[float]:
    """The level at which Holm's procedure tests each claim: alpha / (m - rank), up to the first rank not rejected."""
    order = sorted(range(len(p_values)), key=lambda i: (p_values[i], i))
    m, stopped = len(order), len(order)
    for rank, i in enumerate(order):
        if p_values[i] > alphas[i] / (m - rank):
            stopped = rank
            break
    levels = [0.0] * m
    for rank, i in enumerate(order):
        levels[i] = alphas[i] / (m - min(rank, stopped))
    return levels
