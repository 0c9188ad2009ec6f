"""Task by task: what each method changes against single-task learning, and where it stands on the trade-off."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from scipy import stats

from mtlfleet_analysis.evidence import Evidence, Run, Split
from mtlfleet_analysis.pareto import non_dominated
from mtlfleet_analysis.scoring import outcomes, scale_of


@dataclass(frozen=True)
class Change:
    """Mean percent change of one metric against single-task learning, positive = better, with a 95 % interval."""

    dataset: str
    architecture: str
    task: str
    metric: str
    method: str
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def changes(evidence: Evidence) -> tuple[Change, ...]:
    """Of every method but the reference, on test, over the finished runs."""
    runs = evidence.phase("final")
    joined = outcomes(runs, "test")
    found: list[Change] = []
    for dataset in evidence.datasets:
        scale = scale_of(evidence, runs, dataset, "test")
        for architecture in evidence.architectures:
            reference = scale.reference.get(architecture, {})
            for method in evidence.methods:
                if method == evidence.reference:
                    continue
                arms = [o for (m, d, a, _), o in joined.items() if (m, d, a) == (method, dataset, architecture)]
                for task, metric in scale.ranked:
                    base = reference.get((task, metric))
                    values = [o.readings.get((task, metric), math.nan) for o in arms]
                    good = sorted(v for v in values if math.isfinite(v))
                    if not base or not good or evidence.metrics[metric].scale != "ratio":
                        continue
                    sign = 1.0 if evidence.up(metric) else -1.0
                    gains = [100 * sign * (v - base) / abs(base) for v in good]
                    found.append(Change(dataset, architecture, task, metric, method, *_interval(gains), len(gains)))
    return tuple(found)


def _interval(values: list[float]) -> tuple[float, float, float]:
    n = len(values)
    mean = math.fsum(sorted(values)) / n
    if n < 2:
        return mean, -math.inf, math.inf
    sd = math.sqrt(math.fsum(sorted((v - mean) ** 2 for v in values)) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Point:
    """One operating point: values of the primary metrics in the order of ``tasks``.

    ``kind``: ``tried`` (a configuration of a baseline), ``front`` (one that no other configuration of the same baseline
    beats on every task), ``seed`` or ``mean`` of final runs, ``weight`` (the mean of one member of a declared sweep).
    """

    method: str
    kind: str
    values: tuple[float, ...]
    label: str = ""


@dataclass(frozen=True)
class Tradeoff:
    """The operating points at one place, on validation."""

    dataset: str
    architecture: str
    tasks: tuple[tuple[str, str], ...]  # (task, primary metric)
    up: tuple[bool, ...]
    points: tuple[Point, ...]


def tradeoffs(
    evidence: Evidence, sweeps: Iterable[str], declared: Iterable[tuple[str, ...]] = ()
) -> tuple[Tradeoff, ...]:
    """Validation points of every method's final runs, and of each configuration that the ``sweeps`` methods tried.

    ``declared``: sweeps of static weights whose points are methods of the study, in their order.
    """
    swept = [m for m in evidence.methods if m in set(sweeps)]
    found = []
    for dataset in evidence.datasets:
        axes = tuple((f.task, f.primary) for f in evidence.tasks_of(dataset))
        up = tuple(evidence.up(metric) for _, metric in axes)
        for architecture in evidence.architectures:
            here = [r for r in evidence.runs if (r.dataset, r.architecture) == (dataset, architecture)]
            points = [*_final_points(evidence, here, axes), *_sweep_points(here, swept, axes, up)]
            means = {p.method: p for p in points if p.kind == "mean"}
            for i, members in enumerate(dict.fromkeys(declared)):
                points += [replace(means[m], kind="weight", label=f"{i}") for m in members if m in means]
            if len(axes) > 1 and points:
                found.append(Tradeoff(dataset, architecture, axes, up, tuple(points)))
    return tuple(found)


def _values(
    run_values: Iterable[dict[tuple[str, str], float]], axes: tuple[tuple[str, str], ...]
) -> list[tuple[float, ...]]:
    rows = [tuple(values.get(axis, math.nan) for axis in axes) for values in run_values]
    return sorted(row for row in rows if all(map(math.isfinite, row)))


def _mean(rows: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(math.fsum(sorted(column)) / len(rows) for column in zip(*rows, strict=True))


def _final_points(evidence: Evidence, here: list[Run], axes: tuple[tuple[str, str], ...]) -> list[Point]:
    joined = outcomes([r for r in here if r.phase == "final"], "val")
    points: list[Point] = []
    for method in evidence.methods:
        rows = _values((dict(o.readings) for (m, *_), o in joined.items() if m == method), axes)
        points += [Point(method, "seed", row) for row in rows]
        if rows:
            points.append(Point(method, "mean", _mean(rows)))
    return points


def _sweep_points(
    here: list[Run], swept: list[str], axes: tuple[tuple[str, str], ...], up: tuple[bool, ...]
) -> list[Point]:
    """Every configuration a method tried; those that another one beats on every task do not belong to its front."""
    points: list[Point] = []
    split: Split = "val"
    for method in swept:
        tune = [r for r in here if r.phase == "tune" and r.method == method and r.task == "*"]
        tried: list[Point] = []
        for index in sorted({r.config_index for r in tune}):
            members = [r for r in tune if r.config_index == index]
            rows = _values(({(t, m): v for (s, t, m), v in r.values.items() if s == split} for r in members), axes)
            if rows:
                tried.append(Point(method, "tried", _mean(rows), _settings(members[0].params)))
        best = [bool(x) for x in non_dominated([p.values for p in tried], up)] if tried else []
        points += [replace(p, kind="front") if on else p for p, on in zip(tried, best, strict=True)]
    return points


def _settings(params: str) -> str:
    try:
        raw = json.loads(params)
    except ValueError:
        return ""
    return ", ".join(f"{k} {v}" for k, v in sorted(raw.items())) if isinstance(raw, dict) else ""
