"""Looking more than once: a schedule that shares alpha, and a test that may be looked at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtlfleet_analysis.decision import ShiftTest
from mtlfleet_analysis.signflip import Floats, checked

BETS = (0.25, 0.5, 1.0, 2.0)
_STEPS = 80


@dataclass(frozen=True)
class Scheduled:
    """The looks reached so far, each spending its ``shares`` of alpha (they sum to at most one).

    p = min over looks of p_i / share_i: below x with probability at most x under the null, so it goes through Holm like
    any other, and a look decides at alpha times its share.
    """

    looks: tuple[ShiftTest, ...]
    shares: tuple[float, ...]

    def above(self, theta: float) -> float:
        return min(1.0, *(test.above(theta) / share for test, share in self._pairs()))

    def below(self, theta: float) -> float:
        return min(1.0, *(test.below(theta) / share for test, share in self._pairs()))

    def limits(self, alpha: float) -> tuple[float, float]:
        found = [test.limits(alpha * share) for test, share in self._pairs()]
        return max(low for low, _ in found), min(high for _, high in found)

    def _pairs(self) -> list[tuple[ShiftTest, float]]:
        return list(zip(self.looks, self.shares, strict=True))

    def until(self, look: int) -> Scheduled:
        """What was known at an earlier look, the first being 1."""
        return Scheduled(self.looks[:look], self.shares[:look])


def wealth(differences: Sequence[float] | Floats) -> Floats:
    r"""The sign-flip e-process [n]: evidence against "the differences are symmetric about zero" after each of them.

    :math:`E_n = \frac14 \sum_c \prod_{i \le n} (1 + \tanh(c x_i / s_i))`, c in 1/4, 1/2, 1, 2, :math:`s_i` the root
    mean square of :math:`x_1 \dots x_i`. Given all :math:`|x_i|` the signs are fair coins under the null, so that E is
    a martingale that starts at one: P(E ever reaches 1 / alpha) <= alpha (Ville's inequality).

    Source: Ramdas et al., Game-theoretic statistics and safe anytime-valid inference, Statistical Science 38, 2023.

    >>> wealth([1.0] * 8).round(1)[[0, 3, 7]].tolist()
    [1.6, 7.9, 85.2]
    """
    x = checked(differences)
    scale = np.sqrt(np.cumsum(x**2) / np.arange(1, x.size + 1))
    ratio = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
    bets = np.array(BETS)[:, None]
    grown: Floats = np.exp(np.cumsum(np.log1p(np.tanh(bets * ratio)), axis=1)).mean(axis=0)
    return grown


@dataclass(frozen=True)
class Anytime:
    """One value per seed, in the order the seeds stand in the study; p = 1 / the highest E so far, at any time."""

    differences: Floats

    def above(self, theta: float) -> float:
        return float(min(1.0, 1.0 / wealth(self.differences - theta).max()))

    def below(self, theta: float) -> float:
        return float(min(1.0, 1.0 / wealth(theta - self.differences).max()))

    def e_value(self, theta: float = 0.0) -> float:
        """E now, against "the effect is at most theta"."""
        return float(wealth(self.differences - theta)[-1])

    def limits(self, alpha: float) -> tuple[float, float]:
        """The confidence sequence at this moment: the shifts that were never rejected, found by bisection."""
        return self._edge(alpha, 1.0), -self._edge(alpha, -1.0)

    def _edge(self, alpha: float, sign: float) -> float:
        """The largest shift below which everything is rejected, of ``sign`` times the differences."""
        x = sign * self.differences

        def rejected(theta: float) -> bool:
            return float(wealth(x - theta).max()) >= 1.0 / alpha

        span = float(np.ptp(x)) + float(np.abs(x).max()) * 1e-9 + 1e-300
        low, high = float(x.min()) - 1000 * span, float(x.max())
        if not rejected(low):
            return float("-inf")
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if rejected(middle) else (low, middle)
        return low
