"""Before the runs: can each look reject at all, how likely is an answer at the margin, how many seeds would do?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlfleet.plan.claims import Claim
from mtlfleet.plan.streams import stream
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.intervals import mean_of_means, resampled_mean
from mtlfleet_analysis.planning import Noise, datasets_needed, seeds_needed
from mtlfleet_analysis.questions import gather
from mtlfleet_analysis.sequential import wealth
from mtlfleet_analysis.signflip import Floats, sign_rows

ASSUMED_RUN_SD = 1.0  # percentage points of one run's average change
ASSUMED_SHARED = 0.25  # of a run's variance, shared by the methods of one seed
ASSUMED_BETWEEN = 0.5  # spread of a method's effect over datasets, in standard deviations of a run
ASSUMED = "assumed: 1 pp between runs of a method, no promise; runs in the store replace it"
SIMULATED, FLIPS = 500, 1_999
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Resolution:
    """One look: the smallest p it can give, and the level it would be tested at if every claim of the family is."""

    seeds: int
    smallest_p: float
    level: float

    @property
    def able(self) -> bool:
        return self.smallest_p <= self.level


@dataclass(frozen=True)
class Preflight:
    """One claim before its runs. ``power``: P(supported) with the truth at the margin (superiority) or at zero (else),
    simulated; None where the noise of the estimand is not known. ``noise``: where the spread came from.
    """

    claim: str
    looks: tuple[Resolution, ...]
    power: float | None
    seeds_needed: int | None
    datasets_needed: int | None
    pair_sd: float | None
    noise: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "looks": [{**asdict(look), "able": look.able} for look in self.looks]}


def preflight(
    claim: Claim,
    *,
    datasets: int | Sequence[str],
    architectures: int,
    seeds: int,
    family: int,
    pilot: Evidence | None = None,
) -> Preflight:
    """``datasets``: their names, or how many there are. ``pilot``: evidence that already exists; its pairs give the
    noise, else a run's spread is assumed to be 1 pp.
    """
    names = tuple(map(str, range(datasets))) if isinstance(datasets, int) else tuple(datasets)
    of = np.unique([claim.family_of(name) for name in names], return_inverse=True)[1]  # the family of each dataset
    datasets = len(names)
    strata = architectures if claim.estimand.kind == "every_task" else datasets * architectures
    stopping = claim.stopping
    planned = list(zip(stopping.looks, stopping.alpha, strict=True)) or [(seeds, claim.alpha)]
    looks = tuple(Resolution(n, _smallest(claim, n, strata), alpha / family) for n, alpha in planned)
    noise, source = _noise(claim, of, architectures, seeds, pilot)
    level = claim.alpha / family
    if noise is None or claim.estimand.kind in ("every_task", "front_pref"):
        return Preflight(claim.id, looks, None, None, None, None, source)
    power = _power(claim, noise, of, planned, family)
    return Preflight(
        claim.id,
        looks,
        power,
        None if stopping.kind == "anytime" else seeds_needed(claim, noise, level),
        datasets_needed(claim, noise, level),
        float(np.sqrt(np.mean(np.square(noise.within)))),
        source,
    )


def _smallest(claim: Claim, seeds: int, strata: int) -> float:
    if claim.scope == "datasets_like_these" or claim.splits.kind == "resampled":
        return 0.0  # a t test has no smallest p
    if claim.stopping.kind == "anytime":
        return float(1 / wealth(np.ones(seeds))[-1])
    return 2.0 ** -(seeds * strata)


def _noise(
    claim: Claim, of: Indices, architectures: int, seeds: int, pilot: Evidence | None
) -> tuple[Noise | None, str]:
    if pilot is not None and claim.estimand.kind not in ("every_task", "front_pref"):
        pairs = gather(pilot, claim).shown.pairs
        d = np.array([p.difference for p in pairs])
        found = Noise.of(d, [p.stratum for p in pairs], [claim.family_of(p.dataset) for p in pairs]) if pairs else None
        if found is not None and len(found.within) == len(of) * architectures:
            return found, f"{len(pairs)} pairs of this store"
    if not claim.estimand.relative:
        return None, f"unknown in units of {claim.estimand.unit}"
    sd = ASSUMED_RUN_SD * math.sqrt(2 * (1 - ASSUMED_SHARED))
    between = ASSUMED_BETWEEN * ASSUMED_RUN_SD
    return Noise((sd,) * (len(of) * architectures), seeds, len(set(of)), between), ASSUMED


def _power(claim: Claim, noise: Noise, of: Indices, planned: Sequence[tuple[int, float]], family: int) -> float:
    """Share of simulated studies in which the claim is supported."""
    rng = np.random.default_rng(stream(len(claim.id), f"preflight/{claim.id}"))
    truth = claim.margin if claim.alternative == "superiority" else 0.0
    strata, most = len(noise.within), planned[-1][0]
    tails = rng.standard_t(5, size=(SIMULATED, strata, most)) / math.sqrt(5 / 3)
    d = truth + tails * np.array(noise.within)[None, :, None]
    if claim.scope == "datasets_like_these":
        shifts = noise.between * rng.standard_normal((SIMULATED, noise.datasets))
        d = d + np.repeat(shifts[:, of], strata // len(of), axis=1)[:, :, None]
    supported = np.zeros(SIMULATED, dtype=bool)
    for seeds, alpha in planned:
        supported |= _p_of(claim, d[:, :, :seeds], of) <= alpha / family
    return float(supported.mean())


def _p_of(claim: Claim, d: Floats, of: Indices) -> Floats:
    """The claim's own p in each simulated study; ``d`` [studies, strata, seeds]."""
    sides = {
        "superiority": [d],
        "non_inferiority": [d + claim.margin],
        "no_better_than": [claim.margin - d],
        "equivalence": [d + claim.margin, claim.margin - d],
    }[claim.alternative]
    worst: Floats = np.max([_one_sided(claim, side, of) for side in sides], axis=0)
    return worst


def _one_sided(claim: Claim, d: Floats, of: Indices) -> Floats:
    by_dataset = d.mean(axis=2).reshape(len(d), len(of), -1).mean(axis=2)
    means = np.stack([by_dataset[:, of == family].mean(axis=1) for family in sorted(set(of))], axis=1)
    if claim.scope == "datasets_like_these":
        return np.array([mean_of_means(m).above(0.0) for m in means])
    if claim.splits.kind == "resampled":
        return np.array([resampled_mean(m, claim.splits.test_fraction or 0.0).above(0.0) for m in means])
    if claim.stopping.kind == "anytime":
        return np.array([min(1.0, 1.0 / wealth(x).max()) for x in d.mean(axis=1)])
    rows = d.reshape(len(d), -1)
    observed = rows.sum(axis=1)[:, None]
    extreme, total = np.zeros(len(d)), 0
    for signs in sign_rows(rows.shape[1], FLIPS, 1, exact_up_to=10):
        extreme += np.count_nonzero(rows @ signs.T >= observed - 1e-9 * np.abs(observed), axis=1)
        total += len(signs)
    drawn = rows.shape[1] > 10
    return (extreme + drawn) / (total + drawn)
