"""Several differences in one claim: safe on every task, or better than every point of a front."""

from __future__ import annotations

from dataclasses import dataclass

from mtlfleet_analysis.decision import ShiftTest


@dataclass(frozen=True)
class EveryPart:
    """The least of several effects, by intersection and union.

    "The least effect is above theta" needs every part to reject at alpha, which costs nothing; "the least effect is
    below theta" needs one of them, at alpha / parts. Source: Berger, Technometrics 24, 1982.
    """

    parts: tuple[ShiftTest, ...]

    def above(self, theta: float) -> float:
        return max(part.above(theta) for part in self.parts)

    def below(self, theta: float) -> float:
        return min(1.0, len(self.parts) * min(part.below(theta) for part in self.parts))

    def limits(self, alpha: float) -> tuple[float, float]:
        low = min(part.limits(alpha)[0] for part in self.parts)
        return low, min(part.limits(alpha / len(self.parts))[1] for part in self.parts)


@dataclass(frozen=True)
class FrontTest:
    """The excess over a sweep under the best of some declared preferences.

    ``against[j]``: under preference j, the tests against the sweep's points; ``chosen[j]``: against the point that
    validation chose for it, or, where nothing was tuned, against the least of all points (``EveryPart``).
    "Beats the sweep by theta" needs, for one preference at alpha / preferences, every point to be beaten (the maximum
    over a sweep is not known, so no point is picked on the data that judge it). "Beats it by less than theta" needs,
    for every preference, the chosen point not to be beaten by that much.
    """

    against: tuple[tuple[ShiftTest, ...], ...]
    chosen: tuple[ShiftTest, ...]

    def of_preference(self, j: int, theta: float) -> float:
        """p of "under preference j some point is not beaten by theta"."""
        return max(test.above(theta) for test in self.against[j])

    def above(self, theta: float) -> float:
        return min(1.0, len(self.against) * min(self.of_preference(j, theta) for j in range(len(self.against))))

    def below(self, theta: float) -> float:
        return max(test.below(theta) for test in self.chosen)

    def limits(self, alpha: float) -> tuple[float, float]:
        share = alpha / len(self.against)
        low = max(min(test.limits(share)[0] for test in tests) for tests in self.against)
        return low, max(test.limits(alpha)[1] for test in self.chosen)
