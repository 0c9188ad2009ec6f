"""Claims about speed and cost: what each run's validation curve says against the device seconds it took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from mtlfleet.plan.claims import Claim, Estimand
from mtlfleet.plan.tasks import Metric
from mtlfleet_analysis.estimands import compute_matched, time_to_target
from mtlfleet_analysis.evidence import OUTCOME_STATES, Evidence, Reading, Run

SECONDS = Metric("time_to_target", "min", "s", "ratio", 0.0, "device seconds until validation reached the target")


def paced(evidence: Evidence, claim: Claim) -> tuple[Evidence, Claim]:
    """The arms' runs with the claim's one reading in place of all others, and the claim as one about that reading.

    It stands where test readings stand, so that pairing, failures and the choice of a baseline are those of every
    claim. A run without a curve has no reading and is still owed.

    ``time_to_target``: a run that never reaches the target, or that failed, counts the seconds of the arms' longest run
    of its dataset and phase: what is compared is the mean time within what was given. ``compute_matched``: the clock
    starts at what tuning the arm took, all members of a baseline together; nothing measured by then is no finite
    reading, which is scored worst.
    """
    asked = claim.estimand
    arms = [{claim.method}, set(claim.baseline.best_of)]
    mine = [r for r in evidence.runs if any(r.method in arm for arm in arms)]
    metric = asked.metric or ""
    if asked.kind == "time_to_target":
        metrics, longest = {**evidence.metrics, SECONDS.name: SECONDS}, _longest(mine)
        values = {r.trial: _reached(r, claim, evidence.up(metric), longest) for r in mine}
        reading = (asked.task or "", SECONDS.name)
    else:
        metrics = dict(evidence.metrics)
        values = {r.trial: _within(r, claim, _spent(mine, arms, r)) for r in mine}
        reading = (asked.task or "", metric)
    runs = tuple(replace(r, values=_slots(reading, values.get(r.trial))) for r in evidence.runs)
    own = replace(claim, estimand=Estimand(kind="metric", task=reading[0], metric=reading[1]))
    return replace(evidence, runs=runs, metrics=metrics), own


def _slots(reading: Reading, value: float | None) -> Mapping[tuple[str, str, str], float]:
    return {} if value is None else {(split, *reading): value for split in ("val", "test")}


def _curve(run: Run, claim: Claim) -> tuple[tuple[float, float], ...]:
    return run.curves.get((claim.estimand.task or "", claim.estimand.metric or ""), ())


def _longest(runs: list[Run]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for r in runs:
        found[r.phase, r.dataset] = max(found.get((r.phase, r.dataset), 0.0), r.device_s)
    return found


def _reached(run: Run, claim: Claim, up: bool, longest: Mapping[tuple[str, str], float]) -> float | None:
    most, curve = longest[run.phase, run.dataset], _curve(run, claim)
    if run.state not in OUTCOME_STATES or run.task not in ("*", claim.estimand.task):
        return None
    if run.state != "done":
        return most
    if not curve:
        return None
    times, values = zip(*curve, strict=True)
    found = time_to_target(times, values, claim.estimand.target or 0.0, higher_is_better=up)
    return found if math.isfinite(found) else most


def _within(run: Run, claim: Claim, spent: float) -> float | None:
    curve = _curve(run, claim)
    if run.state != "done" or not curve:
        return None
    times, values = zip(*curve, strict=True)
    left = (claim.estimand.device_s or 0.0) - spent
    return compute_matched(times, values, left) if min(times) <= left else math.nan


def _spent(runs: list[Run], arms: list[set[str]], run: Run) -> float:
    """Device seconds that tuning took at the run's place, for its whole arm."""
    arm = next(names for names in arms if run.method in names)
    return math.fsum(
        sorted(
            r.device_s
            for r in runs
            if r.phase == "tune" and r.method in arm and (r.dataset, r.architecture) == (run.dataset, run.architecture)
        )
    )
