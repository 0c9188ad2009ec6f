"""Negative controls: what papers commonly do, measured by the same harness, which has to find it wanting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from mtlfleet_analysis.calibration.findings import Finding, Measure
from mtlfleet_analysis.calibration.noise import Noise
from mtlfleet_analysis.calibration.rules import METHODS, generator, strata_of
from mtlfleet_analysis.intervals import stratified_mean
from mtlfleet_analysis.signflip import Floats

Bools = npt.NDArray[np.bool_]

Run = Callable[[Noise, int, int], list[Finding]]
RESAMPLES = 500


def two_methods(datasets: int, seeds: int) -> Run:
    """Two equal methods, and the ways in which one of them is said to be better."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G14", cell=f"D={datasets}, n={seeds}", studies=studies)
        runs = noise.runs(generator(seed, 14, datasets, seeds), studies, 2, datasets, seeds)
        a, b = runs[:, 0], runs[:, 1]
        means, sems = runs.mean(-1), runs.std(-1, ddof=1) / np.sqrt(seeds)
        apart = np.abs(means[:, 0] - means[:, 1]) > sems[:, 0] + sems[:, 1]
        welch: Floats = np.asarray(stats.ttest_ind(a, b, axis=-1, equal_var=False).pvalue)
        found = [
            at.error("the higher mean is better", list((a - b).mean((1, 2)) > 0), control=True),
            _shown(at, "mean ± SEM bars apart on some dataset", _any(apart), control=datasets > 1),
            _shown(at, "Welch on each dataset, some p ≤ 0.05", _any(welch <= 0.05), control=datasets >= 10),
        ]
        if seeds <= 5:
            drawn = [bool(x) for x in _bootstrap(a - b, generator(seed, 14, datasets, seeds, 1))]
            found.append(at.error("percentile bootstrap excludes zero", drawn, control=True))
        return found

    return run


def _shown(at: Measure, what: str, hits: list[bool], *, control: bool) -> Finding:
    """A practice that breaks the limit only where datasets are many; elsewhere it is shown beside the others."""
    return at.error(what, hits, control=True) if control else at.rate(f"{what} (shown)", hits, 1.0)


def _any(hits: Any, axis: int | tuple[int, ...] = -1) -> list[bool]:
    found: list[bool] = np.any(np.asarray(hits), axis=axis).tolist()
    return found


def _bootstrap(d: Floats, rng: np.random.Generator) -> Bools:
    """Whether the percentile interval of the stratified bootstrap leaves out zero; d [studies, datasets, seeds]."""
    found = np.empty(len(d), dtype=bool)
    for i, one in enumerate(d):
        picks = rng.integers(0, one.shape[1], size=(RESAMPLES, *one.shape))
        means = np.take_along_axis(one[None], picks, axis=2).mean((1, 2))
        low, high = np.quantile(means, [0.025, 0.975])
        found[i] = low > 0 or high < 0
    return found


def many_methods(datasets: int, seeds: int) -> Run:
    """Fifteen methods that are no better than the baseline."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G14", cell=f"D={datasets}, n={seeds}, {METHODS} methods", studies=studies)
        runs = noise.runs(generator(seed, 14, datasets, seeds, 2), studies, METHODS + 1, datasets, seeds)
        contrast = runs[:, :-1] - runs[:, -1:]
        bold = list((contrast.mean((2, 3)) > 0).any(-1))
        p: Floats = np.asarray(stats.ttest_1samp(contrast, 0.0, axis=-1, alternative="greater").pvalue)
        return [
            at.error("some method is bold, the baseline is not", bold, control=True),
            at.rate("the same: at least 0.90, as it should be", bold, 0.9, at_most=False),
            at.error("t on each dataset, uncorrected", _any(p <= 0.05, (1, 2)), control=True),
        ]

    return run


def generalising(datasets: int, seeds: int) -> Run:
    """Seeds taken for datasets: a claim about other datasets, tested over all rows at once."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G14", cell=f"D={datasets}, n={seeds}, tau={noise.tau:g} sd", studies=studies)
        d = noise.differences(
            generator(seed, 14, datasets, seeds, 3), studies, datasets, seeds, tau=max(noise.tau, 0.5)
        )
        strata = strata_of(datasets, seeds)
        hits = [stratified_mean(x.ravel(), strata).above(0) <= 0.05 for x in d]
        return [at.error("seeds stand in for datasets", hits, control=True)]

    return run


def peeking(most: int) -> Run:
    """A t test after every further seed, stopped at the first p below 0.05; one dataset."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G14", cell=f"D=1, n=3 to {most}", studies=studies)
        d = noise.differences(generator(seed, 14, most), studies, 1, most)[:, 0]
        p = [
            np.asarray(stats.ttest_1samp(d[:, :n], 0.0, axis=1, alternative="greater").pvalue)
            for n in range(3, most + 1)
        ]
        return [at.error("t at every n, stop when p ≤ 0.05", _any(np.stack(p) <= 0.05, 0), control=True)]

    return run


def choosing(configs: int, datasets: int, seeds: int) -> Run:
    """The best of several configurations of one method, chosen on the runs that then are the evidence."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G14", cell=f"D={datasets}, n={seeds}, best of {configs}", studies=studies)
        runs = noise.runs(generator(seed, 14, configs, datasets), studies, configs + 1, datasets, seeds)
        d = runs[:, :-1] - runs[:, -1:]
        best = np.take_along_axis(d, d.mean(-1, keepdims=True).argmax(1, keepdims=True), axis=1)[:, 0]
        strata = strata_of(datasets, seeds)
        hits = [stratified_mean(x.ravel(), strata).above(0) <= 0.05 for x in best]
        return [at.error("only the optimizer is tuned, on test", hits, control=True)]

    return run


def no_difference_found(datasets: int, seeds: int) -> Run:
    """A true effect of one standard deviation, and "not significant" read as "no difference"."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G14", cell=f"D={datasets}, n={seeds}, effect 1 sd", studies=studies)
        runs = noise.runs(generator(seed, 14, datasets, seeds, 4), studies, 2, datasets, seeds)
        p: Floats = np.asarray(stats.ttest_ind(runs[:, 0] + 1.0, runs[:, 1], axis=-1, equal_var=False).pvalue)
        return [at.error("Welch p > 0.05 read as equality", _any(p > 0.05), control=True)]

    return run
