"""Which configuration of a cell goes on to the final seeds: a pure function of validation numbers in the store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mtlfleet.plan import Cell, Study, Trial
from mtlfleet.plan.place import Root
from mtlfleet.plan.tasks import METRICS, Task
from mtlfleet.store import final_values

Values = Mapping[tuple[str, str], float]  # (task, metric) -> value on validation at the chosen checkpoint


def read_values(root: Root, study: str, trials: Iterable[str]) -> dict[str, Values]:
    """Final validation values of trials that are done. Nothing of the test split is looked at."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for trial in trials:
        rows = final_values(root, study, trial, split="val")
        found[trial] = {(row.task, row.metric): row.value for row in rows}
    return dict(found)


def reference_cells(study: Study, cell: Cell) -> tuple[Cell, ...]:
    """The single-task cells that must be chosen before ``cell`` can be: those of its dataset and architecture, when the
    study selects on delta_m."""
    if study.select != "delta_m" or cell.task != "*":
        return ()
    return tuple(c for c in study.cells() if c.task != "*" and c[1:3] == cell[1:3])


def choose(
    study: Study, cell: Cell, trials: Sequence[Trial], values: Mapping[str, Values], reference: Values
) -> int | None:
    """The configuration with the best mean score over the tuning seeds; the first of equals.

    A configuration with a run that diverged or failed scores minus infinity: it is chosen only by nobody. None when
    every configuration did.
    """
    scores: dict[int, list[float]] = {}
    for trial in trials:
        found = values.get(trial.id)
        score = -math.inf if not found else _score(study, cell, trial, found, reference)
        scores.setdefault(trial.config_index, []).append(score if math.isfinite(score) else -math.inf)
    means = {index: sum(each) / len(each) for index, each in scores.items()}
    best = max(means.values(), default=-math.inf)
    return None if best == -math.inf else min(index for index, mean in means.items() if mean == best)


def _score(study: Study, cell: Cell, trial: Trial, values: Values, reference: Values) -> float:
    tasks = [task for task in study.facts[cell.dataset].tasks if task.name in trial.tasks]
    if cell.task == "*" and study.select == "delta_m":
        return -delta_m(tasks, values, reference)
    if "." in study.select:
        name, _, metric = study.select.partition(".")
        if (name, metric) in values:
            sign = 1.0 if METRICS[metric].direction == "max" else -1.0
            return sign * values[name, metric]
    return sum(task.skill(values.get((task.name, task.primary.name), math.nan)) for task in tasks) / len(tasks)


def delta_m(tasks: Sequence[Task], values: Values, reference: Values) -> float:
    """Percent against single-task reference, flat mean over ratio-scale metrics; lower is better."""
    terms = []
    for task in tasks:
        for name in task.metrics:
            metric = METRICS[name]
            if metric.direction == "none" or metric.scale != "ratio":
                continue
            base = reference.get((task.name, name), math.nan)
            sign = -1.0 if metric.direction == "max" else 1.0
            terms.append(100.0 * sign * (values.get((task.name, name), math.nan) - base) / base)
    return sum(terms) / len(terms) if terms else math.nan


def mean_values(values: Iterable[Values]) -> Values:
    """Mean of each (task, metric) over runs: the reference that delta_m is taken against."""
    collected: dict[tuple[str, str], list[float]] = {}
    for each in values:
        for key, value in each.items():
            collected.setdefault(key, []).append(value)
    return {key: sum(found) / len(found) for key, found in collected.items()}
