"""The picture of a front claim: its runs in the claim's own coordinates, what it prefers, and what must be beaten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mtlfleet.plan.claims import Estimand
from mtlfleet_analysis.evidence import Evidence, Run
from mtlfleet_analysis.pairing import places
from mtlfleet_analysis.readings import Point, Tradeoff
from mtlfleet_analysis.scoring import Place, outcomes, scale_of, score
from mtlfleet_analysis.verdict import Verdict

CHANGE = "change in %"


@dataclass(frozen=True)
class Line:
    """One declared preference: points with the score of the sweep's best one have ``weights`` @ point = ``level``."""

    weights: tuple[float, ...]  # in the order of the front's tasks, sum one
    level: float


@dataclass(frozen=True)
class Front:
    """A claim at one place. ``tradeoff``: percent changes of each task on test, failed runs scored worst; ``lines``:
    the preference with the smallest p first; ``eps``: by how much a line must be passed.
    """

    claim: str
    method: str
    tradeoff: Tradeoff
    lines: tuple[Line, ...]
    eps: float


def fronts(evidence: Evidence, verdict: Verdict) -> tuple[Front, ...]:
    """Of a judged claim on a front, one a place, over the seeds that its verdict rests on; empty for other claims."""
    claim, pairs = verdict.claim, verdict.detail["pairs"]
    if claim.estimand.kind != "front_pref" or not pairs or "front" not in verdict.detail:
        return ()
    seeds = {p[2] for p in pairs}
    runs = tuple(r for r in evidence.phase("final") if r.seed in seeds)
    chosen = {(c["dataset"], c["architecture"]): c["baseline"] for c in verdict.detail["choices"]}
    found = []
    for dataset, architecture in places(evidence, claim):
        members = claim.baseline.best_of if claim.baseline.sweep else (str(chosen[dataset, architecture]),)
        tasks = tuple(f.task for f in evidence.tasks_of(dataset))
        rows = _rows(evidence, runs, (dataset, architecture), tasks)
        means = {m: _mean(rows[m]) for m in (*members, claim.method) if rows.get(m)}
        points = [Point(m, "seed", row) for m in means for row in rows[m]]
        points += [Point(m, "mean", mean) for m, mean in means.items()]
        if claim.baseline.sweep:
            points += [Point(m, "weight", means[m], "0") for m in members if m in means]
        beaten = [means[m] for m in members if m in means]
        if not beaten:
            continue
        lines = [Line(w, max(weighed(w, x) for x in beaten)) for w in _preferences(verdict, tasks)]
        axes = tuple((t, CHANGE) for t in tasks)
        where = Tradeoff(dataset, architecture, axes, (True,) * len(tasks), tuple(points))
        found.append(Front(claim.id, claim.method, where, tuple(lines), float(verdict.detail["front"]["eps"])))
    return tuple(found)


def _rows(
    evidence: Evidence, runs: tuple[Run, ...], place: Place, tasks: tuple[str, ...]
) -> dict[str, list[tuple[float, ...]]]:
    """Method -> the percent changes of each of its seeds."""
    scale = scale_of(evidence, runs, place[0], "test")
    found: dict[str, list[tuple[float, ...]]] = {}
    for (method, dataset, architecture, _), outcome in outcomes(runs, "test").items():
        if (dataset, architecture) == place:
            asked = [Estimand(kind="every_task", task=t) for t in tasks]
            scores = [score(outcome, scale, architecture, one, evidence) for one in asked]
            known = [s.value for s in scores if s is not None]
            if len(known) == len(tasks):
                found.setdefault(method, []).append(tuple(known))
    return found


def weighed(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(w * v for w, v in zip(weights, values, strict=True))


def _mean(rows: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(math.fsum(sorted(column)) / len(rows) for column in zip(*rows, strict=True))


def _preferences(verdict: Verdict, tasks: tuple[str, ...]) -> list[tuple[float, ...]]:
    """Scaled to sum one, the one that speaks loudest first."""
    rows = sorted(verdict.detail["front"]["preferences"], key=lambda row: row["p"])
    given = [dict.fromkeys(tasks, 1.0) if row["w"] == "equal" else row["w"] for row in rows]
    return [tuple(w[t] / math.fsum(w.values()) for t in tasks) for w in given]
