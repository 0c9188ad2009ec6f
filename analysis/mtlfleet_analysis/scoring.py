"""From runs to one number per (method, dataset, architecture, seed): higher = better, failures scored worst."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mtlfleet.plan.claims import Estimand
from mtlfleet_analysis.effects import delta_m
from mtlfleet_analysis.evidence import FAILED_STATES, OUTCOME_STATES, Evidence, Reading, Run, Split

Arm = tuple[str, str, str, int]  # method, dataset, architecture, seed
Place = tuple[str, str]  # dataset, architecture


@dataclass(frozen=True)
class Outcome:
    """What one seed of one method gave: readings, or that it failed. Single-task runs are joined."""

    states: Mapping[str, str]  # task (or *) -> state
    readings: Mapping[Reading, float]
    trials: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return all(state in OUTCOME_STATES for state in self.states.values())

    @property
    def failed(self) -> bool:
        return any(state in FAILED_STATES for state in self.states.values())


@dataclass(frozen=True)
class Scale:
    """What the readings of one dataset mean: which metrics are ranked, the worst of each, and the STL reference."""

    ranked: tuple[Reading, ...]
    worst: Mapping[Reading, float]
    reference: Mapping[str, Mapping[Reading, float]] = field(default_factory=dict)  # by architecture


def outcomes(runs: Iterable[Run], split: Split) -> dict[Arm, Outcome]:
    """Readings of every seed. A method that trains one run a task has its runs joined."""
    found: dict[Arm, list[Run]] = {}
    for run in runs:
        found.setdefault((run.method, run.dataset, run.architecture, run.seed), []).append(run)
    return {
        arm: Outcome(
            {run.task: run.state for run in members},
            {
                (task, metric): v
                for run in members
                for (s, task, metric), v in run.values.items()
                if s == split and task != "*"
            },
            tuple(run.trial for run in members),
        )
        for arm, members in found.items()
    }


def scale_of(evidence: Evidence, runs: Iterable[Run], dataset: str, split: Split) -> Scale:
    """The ranked readings of ``dataset`` among ``runs``, the worst finite value of each (or chance), the STL means."""
    here = [run for run in runs if run.dataset == dataset]
    seen: dict[Reading, list[float]] = {}
    singles: dict[str, dict[Reading, list[float]]] = {}
    for run in here:
        for (at, task, metric), value in run.values.items():
            if at != split or task == "*" or _direction(evidence, metric) == "none" or not math.isfinite(value):
                continue
            seen.setdefault((task, metric), []).append(value)
            if run.method == evidence.reference and run.state == "done":
                singles.setdefault(run.architecture, {}).setdefault((task, metric), []).append(value)
    for fact in evidence.tasks_of(dataset):
        if fact.chance is not None and math.isfinite(fact.chance) and (fact.task, fact.primary) in seen:
            seen[fact.task, fact.primary].append(fact.chance)
    worst = {r: (min if evidence.up(r[1]) else max)(values) for r, values in seen.items()}
    means = {a: {r: math.fsum(sorted(v)) / len(v) for r, v in by.items()} for a, by in singles.items()}
    return Scale(tuple(sorted(seen)), worst, means)


def _direction(evidence: Evidence, metric: str) -> str:
    known = evidence.metrics.get(metric)
    return known.direction if known else "none"


@dataclass(frozen=True)
class Score:
    """The estimand of one outcome; ``imputed``: a failure, or a reading that is not finite, was scored worst."""

    value: float
    imputed: bool


def score(outcome: Outcome, scale: Scale, architecture: str, estimand: Estimand, evidence: Evidence) -> Score | None:
    """Higher = better. None when the run owes its numbers still, or the reference is missing.

    A failed run gets the worst value of every reading of its tasks; a finished one only where a reading is not finite.
    """
    if not outcome.complete:
        return None
    wanted = wanted_readings(scale, estimand, evidence)
    if not wanted:
        return None
    filled: list[float] = []
    imputed = False
    for reading in wanted:
        state = outcome.states.get(reading[0], outcome.states.get("*", "missing"))
        value = outcome.readings.get(reading)
        if state in FAILED_STATES or (value is not None and not math.isfinite(value)):
            filled.append(scale.worst[reading])
            imputed = True
        elif value is None:
            return None
        else:
            filled.append(value)
    number = combine(filled, wanted, scale.reference.get(architecture, {}), estimand, evidence)
    return None if number is None else Score(number, imputed)


def wanted_readings(scale: Scale, estimand: Estimand, evidence: Evidence) -> tuple[Reading, ...]:
    """The readings an estimand averages: percent changes only of metrics with a true zero."""
    if estimand.kind == "metric":
        return tuple(r for r in scale.ranked if r == (estimand.task, estimand.metric))
    ratio = tuple(r for r in scale.ranked if evidence.metrics[r[1]].scale == "ratio")
    if estimand.task is None:
        return ratio
    return tuple(r for r in ratio if r[0] == estimand.task and estimand.metric in (None, r[1]))


def combine(
    values: list[float],
    wanted: tuple[Reading, ...],
    reference: Mapping[Reading, float],
    estimand: Estimand,
    evidence: Evidence,
) -> float | None:
    """The estimand of one set of readings as an improvement; None without the reference it needs."""
    up = [evidence.up(metric) for _, metric in wanted]
    if estimand.kind == "metric":
        return values[0] if up[0] else -values[0]
    if any(not reference.get(r) for r in wanted):
        return None
    base = [reference[r] for r in wanted]
    if estimand.kind in ("delta_m", "delta_task"):
        return -delta_m(values, base, up, "flat")
    tasks = [task for task, _ in wanted]
    if not estimand.preferences:
        return delta_m(values, base, up, "per_task", tasks)
    return _preferred(dict(estimand.preferences[0]), values, base, up, tasks)


def _preferred(
    preference: Mapping[str, float], values: list[float], base: list[float], up: list[bool], tasks: list[str]
) -> float:
    """Percent changes averaged within each task, then weighted by one declared preference that is scaled to sum one."""
    own = {task: [i for i, t in enumerate(tasks) if t == task] for task in dict.fromkeys(tasks)}
    gains = {t: -delta_m([values[i] for i in at], [base[i] for i in at], [up[i] for i in at]) for t, at in own.items()}
    return math.fsum(preference[t] * gains[t] for t in sorted(gains)) / math.fsum(preference[t] for t in sorted(gains))
