"""What each method was given: tuning trials and device time, from the ledger of trials and attempts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.scoring import Place


@dataclass(frozen=True)
class Budget:
    """One method's spending over some places. Single-task methods: tuning trials of the largest task."""

    method: str
    tuning_trials: int
    tuning_device_s: float
    final_runs: int
    final_device_s: float


def budget_of(evidence: Evidence, method: str, places: Iterable[Place]) -> Budget:
    """Every trial that was started counts, whatever became of it."""
    where = set(places)
    mine = [r for r in evidence.runs if r.method == method and (r.dataset, r.architecture) in where and r.attempts > 0]
    tune, final = ([r for r in mine if r.phase == phase] for phase in ("tune", "final"))
    trials = 0
    for place in where:
        per_task: dict[str, int] = {}
        for run in tune:
            if (run.dataset, run.architecture) == place:
                per_task[run.task] = per_task.get(run.task, 0) + 1
        trials += max(per_task.values(), default=0)
    return Budget(
        method,
        trials,
        math.fsum(sorted(r.device_s for r in tune)),
        len(final),
        math.fsum(sorted(r.device_s for r in final)),
    )


def budgets(evidence: Evidence, claim: Claim, places: Iterable[Place]) -> tuple[Budget, ...]:
    """The method's budget, then that of each named baseline."""
    where = tuple(places)
    return tuple(budget_of(evidence, name, where) for name in (claim.method, *claim.baseline.best_of))


def ratio(method: float, baseline: float) -> float | None:
    """method / baseline; 1 for nothing against nothing, None for something against nothing."""
    if baseline == 0:
        return 1.0 if method == 0 else None
    return method / baseline
