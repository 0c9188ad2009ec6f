"""Methods side by side: descriptive, with intervals, and never a single bold winner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mtlfleet.plan.claims import Estimand
from mtlfleet_analysis.budget import Budget, budget_of
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.intervals import stratified_mean
from mtlfleet_analysis.multiplicity import holm
from mtlfleet_analysis.scoring import Place, outcomes, scale_of, score
from mtlfleet_analysis.signflip import sign_flip_test

Key = tuple[str, str, int]  # dataset, architecture, seed


@dataclass(frozen=True)
class Entry:
    """One method's row. ``separated``: from the best, by a paired test; None if unknown."""

    method: str
    mean: float | None
    low: float | None
    high: float | None
    runs: int
    owed: int
    failures: int
    separated: bool | None
    places: Mapping[Place, float]
    budget: Budget
    mean_rank: float | None = None
    reference: bool = False


@dataclass(frozen=True)
class Leaderboard:
    """Rows, best first; ``estimand`` is None when nothing can be averaged (no single-task runs)."""

    entries: tuple[Entry, ...]
    unit: str
    places: tuple[Place, ...]
    best: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)


def leaderboard(evidence: Evidence, alpha: float = 0.05) -> Leaderboard:
    """Mean improvement on single-task learning of every method, over all places; failures scored worst."""
    run = {(r.dataset, r.architecture) for r in evidence.runs}  # a study may leave out cells
    where = tuple((d, a) for d in evidence.datasets for a in evidence.architectures if (d, a) in run or not run)
    scores, failures = _scores(evidence)
    seeds = evidence.seeds or tuple(sorted({r.seed for r in evidence.phase("final")}))
    wanted = len(where) * len(seeds)
    means = {m: _mean_of_places(s) for m, s in scores.items()}
    ranked = [m for m in evidence.methods if len(scores.get(m, {})) == wanted and wanted]
    best = max(ranked, key=lambda m: (means[m], m), default=None)
    separated = _separated(scores, best, ranked, alpha) if best else {}
    ranks = _mean_ranks(scores, ranked)
    entries = [
        _entry(evidence, m, scores.get(m, {}), wanted, failures.get(m, 0), separated.get(m), where, ranks.get(m))
        for m in evidence.methods
    ]
    entries.sort(key=lambda e: (e.mean is None, -(e.mean or 0.0), e.method))
    return Leaderboard(tuple(entries), "percentage points", where, best)


def _scores(evidence: Evidence) -> tuple[dict[str, dict[Key, float]], dict[str, int]]:
    runs = evidence.phase("final")
    scales = {d: scale_of(evidence, runs, d, "test") for d in evidence.datasets}
    found: dict[str, dict[Key, float]] = {}
    failures: dict[str, int] = {}
    for (method, dataset, architecture, seed), outcome in outcomes(runs, "test").items():
        if dataset not in scales:
            continue
        result = score(outcome, scales[dataset], architecture, Estimand(), evidence)
        failures[method] = failures.get(method, 0) + outcome.failed
        if result is not None:
            found.setdefault(method, {})[dataset, architecture, seed] = result.value
    return found, failures


def _by_place(scores: Mapping[Key, float]) -> dict[Place, list[float]]:
    found: dict[Place, list[float]] = {}
    for (dataset, architecture, _), value in sorted(scores.items()):
        found.setdefault((dataset, architecture), []).append(value)
    return found


def _mean_of_places(scores: Mapping[Key, float]) -> float:
    means = [math.fsum(sorted(v)) / len(v) for v in _by_place(scores).values()]
    return math.fsum(sorted(means)) / len(means) if means else -math.inf


def _separated(
    scores: Mapping[str, Mapping[Key, float]], best: str, ranked: list[str], alpha: float
) -> dict[str, bool]:
    others = [m for m in ranked if m != best]
    keys = sorted(scores[best])
    p = []
    for method in others:
        same = [k for k in keys if k in scores[method]]
        differences = [scores[best][k] - scores[method][k] for k in same]
        p.append(sign_flip_test(differences, [k[:2] for k in same], flips=9_999).p_value if same else 1.0)
    return {best: False} | {m: bool(a <= alpha) for m, a in zip(others, holm(p), strict=True)}


def _mean_ranks(scores: Mapping[str, Mapping[Key, float]], ranked: list[str]) -> dict[str, float]:
    from scipy import stats

    if len(ranked) < 2:
        return {}
    keys = sorted(scores[ranked[0]])
    table = np.array([[-scores[m][k] for m in ranked] for k in keys if all(k in scores[m] for m in ranked)])
    if not table.size:
        return {}
    means = stats.rankdata(table, axis=1).mean(axis=0)
    return {m: float(r) for m, r in zip(ranked, means, strict=True)}


def _entry(
    evidence: Evidence,
    method: str,
    scores: Mapping[Key, float],
    wanted: int,
    failures: int,
    separated: bool | None,
    where: tuple[Place, ...],
    rank: float | None,
) -> Entry:
    low = high = None
    if scores:
        keys = sorted(scores)
        low, high = stratified_mean([scores[k] for k in keys], [k[:2] for k in keys]).interval(0.95)
    return Entry(
        method,
        _mean_of_places(scores) if scores else None,
        low,
        high,
        len(scores),
        wanted - len(scores),
        failures,
        separated,
        {place: math.fsum(sorted(v)) / len(v) for place, v in _by_place(scores).items()},
        budget_of(evidence, method, where),
        rank,
        method == evidence.reference,
    )
