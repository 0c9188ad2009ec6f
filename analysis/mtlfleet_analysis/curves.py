"""Curves over runs, tuning trials and datasets: descriptions that stand beside verdicts and never inside a test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from mtlfleet.plan.claims import Estimand
from mtlfleet_analysis import estimands
from mtlfleet_analysis.evidence import Evidence, Run
from mtlfleet_analysis.ranks import nemenyi_critical_difference
from mtlfleet_analysis.scoring import outcomes, scale_of, score

FEWEST_DATASETS = 5  # below them ranks over datasets say nothing


@dataclass(frozen=True)
class RunScore:
    """Improvement on single-task learning of one final run, percentage points; ``failed`` runs are scored worst."""

    method: str
    dataset: str
    architecture: str
    seed: int
    value: float
    failed: bool


def run_scores(evidence: Evidence) -> tuple[RunScore, ...]:
    """Of every method but the reference, on test, in the study's order."""
    runs = evidence.phase("final")
    scales = {d: scale_of(evidence, runs, d, "test") for d in evidence.datasets}
    found = []
    for (method, dataset, architecture, seed), outcome in outcomes(runs, "test").items():
        if dataset in scales and method in evidence.methods and method != evidence.reference:
            result = score(outcome, scales[dataset], architecture, Estimand(), evidence)
            if result is not None:
                found.append(RunScore(method, dataset, architecture, seed, result.value, outcome.failed))
    order = {m: i for i, m in enumerate(evidence.methods)}
    return tuple(sorted(found, key=lambda r: (order[r.method], r.dataset, r.architecture, r.seed)))


def profile(scores: Sequence[RunScore]) -> list[tuple[float, float]]:
    """(threshold, share of runs that reach it), from low to high; failed runs reach none: the curve starts below 1."""
    thresholds = sorted({r.value for r in scores if not r.failed})
    shares = estimands.profile([math.nan if r.failed else r.value for r in scores], thresholds)
    return list(zip(thresholds, map(float, shares), strict=True))


def expected_best(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Expected best of k scores drawn without replacement (``estimands.evp``), for k = 1 to half of them.

    Higher = better; a score that is not finite counts as the lowest.

    >>> expected_best([1.0, 2.0, 3.0, 4.0]).round(4).tolist()
    [2.5, 3.3333]
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 1 or not np.isfinite(s).any():
        raise ValueError("scores: expected a vector with a finite score")
    s = np.where(np.isfinite(s), s, s[np.isfinite(s)].min())
    return np.array([estimands.evp(s, k) for k in range(1, max(1, s.size // 2) + 1)])


@dataclass(frozen=True)
class TuningCurve:
    """Expected best validation score of k tuned configurations, mean over places; ``hours``: device hours they take."""

    method: str
    trials: int
    values: tuple[float, ...]
    hours: tuple[float, ...]


def tuning_curves(evidence: Evidence) -> tuple[TuningCurve, ...]:
    """Of every method but the reference, in percentage points on single-task learning, on validation."""
    runs = evidence.phase("tune")
    found = []
    scales = {d: scale_of(evidence, runs, d, "val") for d in evidence.datasets}
    by_config: dict[tuple[str, str, str], dict[int, list[Run]]] = {}
    for run in runs:
        by_config.setdefault((run.method, run.dataset, run.architecture), {}).setdefault(run.config_index, []).append(
            run
        )
    for method in evidence.methods:
        if method in evidence.single_task:
            continue
        curves, seconds = [], []
        for (name, dataset, architecture), configs in by_config.items():
            if name != method or dataset not in scales:
                continue
            values = []
            for members in configs.values():
                scored = [
                    score(o, scales[dataset], architecture, Estimand(), evidence)
                    for o in outcomes(members, "val").values()
                ]
                good = sorted(s.value for s in scored if s is not None)
                values.append(math.fsum(good) / len(good) if good else -math.inf)
                seconds.append(math.fsum(sorted(m.device_s for m in members)))
            if any(map(math.isfinite, values)):
                curves.append(expected_best(values))
        if curves:
            k = min(len(c) for c in curves)
            mean = np.mean(np.stack([c[:k] for c in curves]), axis=0)
            per = math.fsum(sorted(seconds)) / len(seconds) / 3600
            trials = max(len(c) for c in by_config.values())
            found.append(TuningCurve(method, trials, tuple(map(float, mean)), tuple(per * (i + 1) for i in range(k))))
    return tuple(found)


@dataclass(frozen=True)
class Ranks:
    """Mean rank of each method over datasets (1 = best), Nemenyi's critical difference, and groups it cannot tell."""

    ranks: tuple[tuple[str, float], ...]  # best first
    critical: float
    datasets: int
    groups: tuple[tuple[str, ...], ...]


def dataset_ranks(evidence: Evidence, alpha: float = 0.05) -> Ranks | None:
    """Ranks of the methods that have a score on every dataset; None with fewer than five datasets or two methods."""
    means: dict[str, dict[str, list[float]]] = {}
    for r in run_scores(evidence):
        means.setdefault(r.method, {}).setdefault(r.dataset, []).append(r.value)
    datasets = [d for d in evidence.datasets if any(d in by for by in means.values())]
    methods = [m for m in evidence.methods if m in means and all(d in means[m] for d in datasets)]
    if len(datasets) < FEWEST_DATASETS or len(methods) < 2:
        return None
    table = np.array([[-math.fsum(sorted(means[m][d])) / len(means[m][d]) for m in methods] for d in datasets])
    mean = stats.rankdata(table, axis=1).mean(axis=0)
    order = sorted(range(len(methods)), key=lambda i: (mean[i], methods[i]))
    critical = nemenyi_critical_difference(len(methods), len(datasets), alpha)
    ranked = tuple((methods[i], float(mean[i])) for i in order)
    return Ranks(ranked, critical, len(datasets), _groups(ranked, critical))


def _groups(ranked: Sequence[tuple[str, float]], critical: float) -> tuple[tuple[str, ...], ...]:
    """Runs of neighbours that lie within the critical difference, none inside another."""
    found: list[tuple[int, int]] = []
    for i, (_, low) in enumerate(ranked):
        j = max(j for j, (_, high) in enumerate(ranked) if high - low <= critical)
        if j > i and not any(a <= i and j <= b for a, b in found):
            found.append((i, j))
    return tuple(tuple(name for name, _ in ranked[i : j + 1]) for i, j in found)
