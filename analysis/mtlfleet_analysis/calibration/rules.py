"""Experiments on our own rules: tests, intervals, margins, failures, verdicts and power."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from mtlfleet.plan.claims import Alternative, Baseline, Claim
from mtlfleet_analysis.calibration.findings import Finding, Measure
from mtlfleet_analysis.calibration.noise import Noise
from mtlfleet_analysis.decision import FlipTest, claim_p, decide
from mtlfleet_analysis.intervals import mean_of_means, stratified_mean
from mtlfleet_analysis.multiplicity import holm
from mtlfleet_analysis.signflip import Floats, sign_flip_test
from mtlfleet_analysis.significance import tost

FLIPS = 1_999  # random flips above 22 differences: p = (b + 1) / (B + 1) keeps its level for any B
METHODS = 15


def strata_of(datasets: int, seeds: int) -> list[Hashable]:
    return [int(i) for i in np.repeat(np.arange(datasets), seeds)]


def claim(alternative: Alternative = "superiority", margin: float = 0.5) -> Claim:
    return Claim(id="c", method="a", baseline=Baseline(best_of=("b",)), alternative=alternative, margin=margin)


def generator(seed: int, *address: int) -> np.random.Generator:
    return np.random.default_rng([seed, *address])


def flip_p(d: Floats, strata: list[Hashable], alternative: str = "greater") -> float:
    return sign_flip_test(d.ravel(), strata, alternative, flips=FLIPS).p_value  # type: ignore[arg-type]


def _quick_p(d: Floats, strata: list[Hashable]) -> float:
    """Fewer flips still resolve 0.05 / 15, and keep the level."""
    return sign_flip_test(d.ravel(), strata, "greater", flips=999).p_value


def false_positives(datasets: int, seeds: int) -> Callable[[Noise, int, int], list[Finding]]:
    """G1: no effect, these datasets."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G1", cell=f"D={datasets}, n={seeds}", studies=studies)
        strata = strata_of(datasets, seeds)
        drawn = noise.differences(generator(seed, 1, datasets, seeds), studies, datasets, seeds)
        return [
            at.error("sign-flip, one-sided", [flip_p(d, strata) <= 0.05 for d in drawn]),
            at.error("sign-flip, two-sided", [flip_p(d, strata, "two-sided") <= 0.05 for d in drawn]),
            at.error("stratified t, one-sided", [stratified_mean(d.ravel(), strata).above(0) <= 0.05 for d in drawn]),
        ]

    return run


def population(datasets: int, seeds: int) -> Callable[[Noise, int, int], list[Finding]]:
    """G2: contrasts that differ between datasets and average to nothing, claimed of other datasets."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G2", cell=f"D={datasets}, n={seeds}", studies=studies)
        drawn = noise.differences(generator(seed, 2, datasets, seeds), studies, datasets, seeds, tau=noise.tau)
        means = drawn.mean(axis=2)
        return [
            at.error("t over dataset means, one-sided", [mean_of_means(m).above(0) <= 0.05 for m in means]),
            at.error("t over dataset means, two-sided", [_twice(mean_of_means(m).above(0)) <= 0.05 for m in means]),
            at.error("sign-flip of dataset means", [sign_flip_test(m, None, "greater").p_value <= 0.05 for m in means]),
        ]

    return run


def _twice(p: float) -> float:
    return 2 * min(p, 1 - p)


def family(datasets: int, seeds: int) -> Callable[[Noise, int, int], list[Finding]]:
    """G3: fifteen methods that are no better than one baseline."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G3", cell=f"D={datasets}, n={seeds}", studies=studies)
        strata = strata_of(datasets, seeds)
        rng, hits = generator(seed, 3, datasets, seeds), []
        for _ in range(studies):
            runs = noise.runs(rng, 1, METHODS + 1, datasets, seeds)[0]
            p = [_quick_p(runs[m] - runs[-1], strata) for m in range(METHODS)]
            hits.append(bool((holm(p) <= 0.05).any()))
        return [at.error(f"sign-flip and Holm, {METHODS} methods", hits)]

    return run


def coverage(datasets: int, seeds: int, *, skew: bool, tau: bool) -> Callable[[Noise, int, int], list[Finding]]:
    """G4: the interval of the claim's scope holds the truth."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        shape = "skewed" if skew else "symmetric"
        at = Measure(goal="G4", cell=f"D={datasets}, n={seeds}, {shape}", studies=studies)
        rng = generator(seed, 4, datasets, seeds, skew, tau)
        used = replace(noise, skew=skew)
        drawn = used.differences(rng, studies, datasets, seeds, tau=noise.tau if tau else 0.0)
        strata = strata_of(datasets, seeds)
        if tau:
            intervals = [mean_of_means(d.mean(axis=1)).interval(0.95) for d in drawn]
        else:
            intervals = [stratified_mean(d.ravel(), strata).interval(0.95) for d in drawn]
        what = "t over dataset means, other datasets" if tau else "stratified t, these datasets"
        return [at.coverage(what, [low <= 0 <= high for low, high in intervals])]

    return run


def margins(datasets: int, seeds: int, margin: float = 0.5) -> Callable[[Noise, int, int], list[Finding]]:
    """G5: the truth lies exactly at the margin, where equivalence, non-inferiority and no_better_than are false."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G5", cell=f"D={datasets}, n={seeds}, margin {margin:g}", studies=studies)
        strata = strata_of(datasets, seeds)
        drawn = noise.differences(generator(seed, 5, datasets, seeds), studies, datasets, seeds)
        found = []
        truths: dict[Alternative, float] = {"equivalence": margin, "non_inferiority": -margin, "no_better_than": margin}
        for alternative, truth in truths.items():
            asked = claim(alternative, margin)
            hits = [claim_p(asked, FlipTest.of(list(d.ravel() + truth), strata, 0, FLIPS)) <= 0.05 for d in drawn]
            found.append(at.error(f"{alternative} at the margin", hits))
        if datasets == 1:
            found.append(at.error("t-TOST", [tost(d[0] + margin, margin).p_value <= 0.05 for d in drawn]))
        return found

    return run


def verdicts(datasets: int, seeds: int, margin: float = 0.5) -> Callable[[Noise, int, int], list[Finding]]:
    """G9: supported although there is nothing, refuted although the effect is as large as the margin."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G9", cell=f"D={datasets}, n={seeds}", studies=studies)
        strata, asked = strata_of(datasets, seeds), claim("superiority", margin)
        drawn = noise.differences(generator(seed, 9, datasets, seeds), studies, datasets, seeds)

        def answers(effect: float) -> list[str]:
            return [decide(asked, FlipTest.of(list(d.ravel() + effect), strata, 0, FLIPS), 0.05).answer for d in drawn]

        none, at_margin = answers(0.0), answers(margin)
        return [
            at.error("supported, no effect", [a == "supported" for a in none]),
            at.error("refuted, effect at the margin", [a == "refuted" for a in at_margin]),
            at.rate("inconclusive, no effect (no limit)", [a == "inconclusive" for a in none], 1.0),
        ]

    return run


def power(datasets: int, seeds: int, effect: float, floor: float) -> Callable[[Noise, int, int], list[Finding]]:
    """G10: how often a true effect is found."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G10", cell=f"D={datasets}, n={seeds}, effect {effect:g} sd", studies=studies)
        strata = strata_of(datasets, seeds)
        drawn = noise.differences(generator(seed, 10, datasets, seeds), studies, datasets, seeds, effect)
        return [at.power("sign-flip, one-sided", [flip_p(d, strata) <= 0.05 for d in drawn], floor)]

    return run


def equivalence_power(
    datasets: int, seeds: int, margin: float, floor: float
) -> Callable[[Noise, int, int], list[Finding]]:
    """G10: how often no difference is recognised as none."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G10", cell=f"D={datasets}, n={seeds}, margin {margin:g} sd, no effect", studies=studies)
        strata, asked = strata_of(datasets, seeds), claim("equivalence", margin)
        drawn = noise.differences(generator(seed, 10, datasets, seeds, 1), studies, datasets, seeds)
        hits = [claim_p(asked, FlipTest.of(list(d.ravel()), strata, 0, FLIPS)) <= 0.05 for d in drawn]
        return [at.power("equivalence", hits, floor)]

    return run
