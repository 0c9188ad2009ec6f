"""How surely a claim could have been decided, and what would decide it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.intervals import power_above
from mtlfleet_analysis.signflip import Floats

TARGET = 0.8
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Noise:
    """Spread of the paired differences: standard deviation within each stratum, seeds a stratum, spread of datasets."""

    within: tuple[float, ...]
    seeds: float
    datasets: int
    between: float  # standard deviation of the dataset means beyond what seeds explain

    @classmethod
    def of(cls, differences: Floats, strata: Sequence[Hashable], datasets: Sequence[str]) -> Noise | None:
        """None where a stratum has a single pair."""
        groups = [differences[[s == label for s in strata]] for label in sorted(set(strata), key=repr)]
        if any(g.size < 2 for g in groups):
            return None
        within = tuple(float(np.sort(g).std(ddof=1)) for g in groups)
        names = sorted(set(datasets))
        means = np.array([np.sort(differences[[d == name for d in datasets]]).mean() for name in names])
        seeds = float(np.mean([g.size for g in groups]))
        of_seeds = float(np.mean(np.square(within))) / seeds / max(1, len(groups) // len(names))
        between = math.sqrt(max(0.0, float(means.var(ddof=1)) - of_seeds)) if len(names) > 1 else 0.0
        return cls(within, seeds, len(names), between)


def power(
    claim: Claim, noise: Noise, seeds: float, alpha: float, datasets: int | None = None, eps: float = 0.0
) -> float:
    """P(supported) if the truth lies at the margin (superiority) or at zero (the others), at level ``alpha``.

    ``eps``: by how much a sweep must be beaten, which leaves less of the margin to be seen.
    """
    squares = np.square(noise.within)
    count = datasets or noise.datasets
    if claim.scope == "these_datasets":
        if seeds * len(noise.within) < -math.log2(alpha):  # the sign-flip test cannot reject at all
            return 0.0
        se = math.sqrt(float(squares.sum()) / seeds) / len(noise.within)
        total = float(np.square(squares).sum())
        df = (seeds - 1) * (float(squares.sum()) ** 2 / total if total > 0 else len(noise.within))
    else:
        per_dataset = max(1, len(noise.within) // noise.datasets)
        se = math.sqrt((noise.between**2 + float(squares.mean()) / seeds / per_dataset) / count)
        df = count - 1.0
    beyond = claim.margin - (eps if claim.alternative == "superiority" else 0.0)
    reached = power_above(beyond, se, df, alpha)
    return max(0.0, 2 * reached - 1) if claim.alternative == "equivalence" else reached


def seeds_needed(claim: Claim, noise: Noise, alpha: float, eps: float = 0.0) -> int | None:
    """Smallest number of seeds a dataset with a power of 0.8; None where no number of seeds reaches it."""
    if not claim.margin > 0 or power(claim, noise, MOST_SEEDS, alpha, eps=eps) < TARGET:
        return None
    return _smallest(lambda n: power(claim, noise, n, alpha, eps=eps) >= TARGET, MOST_SEEDS)


def datasets_needed(claim: Claim, noise: Noise, alpha: float, eps: float = 0.0) -> int | None:
    """Smallest number of datasets like these with a power of 0.8 at the present number of seeds."""
    if claim.scope == "these_datasets" or not claim.margin > 0:
        return None
    if power(claim, noise, noise.seeds, alpha, 1000, eps) < TARGET:
        return None
    return _smallest(lambda d: power(claim, noise, noise.seeds, alpha, d, eps) >= TARGET, 1000)


def _smallest(reached: Callable[[int], bool], most: int) -> int:
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        if reached(middle):
            high = middle
        else:
            low = middle
    return high
