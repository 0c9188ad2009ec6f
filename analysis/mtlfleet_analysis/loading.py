"""The store, asked once: SQL rows to evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mtlfleet.errors import StoreDamaged
from mtlfleet.plan.claims import ON_THE_WAY, Claim, claim_from
from mtlfleet.plan.tasks import Metric
from mtlfleet.store import claim_locks, write_document
from mtlfleet_analysis.evidence import Environment, Evidence, External, Registration, Run, TaskFact, Trace, Twins

if TYPE_CHECKING:
    from mtlfleet.plan import Study
    from mtlfleet.plan.place import Root
    from mtlfleet.store import Store
    from mtlfleet_analysis.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a study asks for, as far as judging needs it; from the study file, or from the store alone."""

    name: str
    title: str
    sha256: str
    datasets: tuple[str, ...]
    architectures: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


class _Answers(Protocol):
    def sql(self, query: str, params: Any = None) -> Any: ...


RUNS = """
SELECT s.trial_id, s.phase, s.method, s.method_use, s.dataset, s.architecture, s.seed, s.task, s.config_index, s.state,
       s.exit_reason, s.label, CAST(s.params AS VARCHAR) AS params, s.n_attempts, s.device_s,
       CAST(s.started_at AS VARCHAR) AS started_at,
       coalesce(r.reads, 0) AS test_reads, coalesce(c.batches_per_step, 1) AS batches,
       coalesce(c.budget, 'samples') AS budget, coalesce(e.device, '') AS device
FROM trial_summary s LEFT JOIN run_cards c USING (study_id, trial_id)
LEFT JOIN (SELECT study_id, trial_id, list_aggregate(list_sort(list(DISTINCT coalesce(gpu, cpu))), 'string_agg', ', ')
           AS device FROM attempts JOIN environments USING (env_sha256) GROUP BY ALL) e USING (study_id, trial_id)
LEFT JOIN (SELECT study_id, trial_id, count(DISTINCT (attempt, step)) AS reads FROM metrics
           WHERE split = 'test' GROUP BY ALL) r USING (study_id, trial_id)
WHERE s.study_id = ? ORDER BY s.trial_id"""
VALUES = """
SELECT trial_id, split, task, metric, arg_max(value, step) AS value FROM metrics
WHERE study_id = ? AND final AND split IN ('val', 'test') AND task <> '*' GROUP BY ALL ORDER BY ALL"""
CURVES = """
SELECT m.trial_id, m.task, m.metric, s.device_s * m.step / s.last_step AS device_s, m.value
FROM metrics m JOIN trial_states s USING (study_id, trial_id)
WHERE m.study_id = ? AND m.split = 'val' AND NOT m.final AND s.last_step > 0 AND s.device_s IS NOT NULL
      AND list_contains(?, concat(m.task, '.', m.metric)) ORDER BY ALL"""


TWINS = """
SELECT method, twin, phase, dataset, architecture, identical AS runs FROM twins
WHERE study_id = ? AND identical = compared ORDER BY ALL"""


TRACES = """
WITH logged AS (
  SELECT 'cosine' AS quantity, study_id, trial_id, step, concat(task_i, ' · ', task_j) AS what, cosine::DOUBLE AS value
  FROM task_gradient_pairs WHERE scope = 'shared'
  UNION ALL
  SELECT 'weight', study_id, trial_id, step, unnest(tasks), unnest(weights)::DOUBLE
  FROM task_gradients WHERE scope = 'shared' AND len(weights) = len(tasks)
)
SELECT quantity, method, dataset, architecture, step, what, quantile_cont(value, 0.1) AS low,
       quantile_cont(value, 0.5) AS middle, quantile_cont(value, 0.9) AS high
FROM logged JOIN trials USING (study_id, trial_id)
WHERE study_id = ? AND phase = 'final' AND task = '*' AND isfinite(value) GROUP BY ALL ORDER BY ALL"""
ENVIRONMENTS = """
SELECT python, torch, coalesce(gpu, cpu, 'CPU') AS device, platform, git_commit, coalesce(git_dirty, false) AS changed,
       count(DISTINCT trial_id) AS trials
FROM attempts JOIN environments USING (env_sha256) WHERE study_id = ? GROUP BY ALL
ORDER BY trials DESC, python, torch, device, platform, git_commit, changed"""
EXTERNAL = """
SELECT source, dataset, method, task, metric, value::DOUBLE AS value FROM external_metrics
WHERE study_id = ? AND isfinite(value) ORDER BY ALL"""


def asked_by(study: Study) -> Asked:
    return Asked(
        name=study.name,
        title=study.report_title or study.name,
        sha256=study.sha256,
        datasets=tuple(s.name for s in study.datasets),
        architectures=tuple(s.name for s in study.architectures),
        methods=tuple(s.name for s in study.methods),
        seeds=tuple(study.seeds),
        claims=tuple(study.claims),
        labels=dict(study.labels),
    )


def asked_of_store(store: Store, study: str) -> Asked:
    """What the store itself says was asked: its trials, and the newest registration of each claim.

    Raises StoreDamaged when it has no row for the study.
    """
    found = _rows(store, "SELECT title, spec_sha256 FROM studies WHERE study_id = ?", study)
    if not found:
        raise StoreDamaged(f"{store.root} has no row for study {study} in table studies")
    rows = _rows(store, "SELECT * FROM trials WHERE study_id = ? ORDER BY trial_id", study)
    locks = {lock["claim_id"]: lock["payload"] for lock in claim_locks(store.root, study)}

    def names(column: str) -> tuple[str, ...]:
        return tuple(sorted({str(r[column]) for r in rows}))

    return Asked(
        name=study,
        title=found[0]["title"] or study,
        sha256=found[0]["spec_sha256"],
        datasets=names("dataset"),
        architectures=names("architecture"),
        methods=names("method"),
        seeds=tuple(sorted({int(r["seed"]) for r in rows if r["phase"] == "final"})),
        claims=tuple(claim_from(payload["claim"]) for _, payload in sorted(locks.items()) if "claim" in payload),
    )


def from_store(study: Study | Asked, store: Store) -> Evidence:
    """Everything judging and the report read, from one consistent state of the store."""
    asked = study if isinstance(study, Asked) else asked_by(study)
    with store.session() as session:
        runs = _runs(session, asked.name, _along(asked.claims))
        metrics = _rows(session, "SELECT * FROM metric_defs WHERE study_id = ? ORDER BY metric", asked.name)
        tasks = _rows(session, "SELECT * FROM task_defs WHERE study_id = ? ORDER BY dataset, task", asked.name)
        twins = _rows(session, TWINS, asked.name)
        traces = _rows(session, TRACES, asked.name)
        external = _rows(session, EXTERNAL, asked.name)
        versions = _rows(session, "SELECT mtlfleet_version FROM studies WHERE study_id = ?", asked.name)
        environments = _rows(session, ENVIRONMENTS, asked.name)
    single = {run.method for run in runs if run.task != "*"}
    return Evidence(
        study=asked.name,
        title=asked.title,
        sha256=asked.sha256,
        runs=runs,
        metrics={m["metric"]: _metric(m) for m in metrics},
        tasks=tuple(
            TaskFact(dataset=t["dataset"], task=t["task"], primary=t["primary_metric"], chance=t["chance"])
            for t in tasks
        ),
        datasets=asked.datasets,
        architectures=asked.architectures,
        methods=asked.methods,
        seeds=asked.seeds,
        single_task=tuple(m for m in asked.methods if m in single),
        registrations=tuple(_registrations(claim_locks(store.root, asked.name))),
        labels=asked.labels,
        twins=tuple(Twins(**row) for row in twins),
        traces=tuple(Trace(**row) for row in traces),
        external=tuple(External(**row) for row in external),
        environments=tuple(Environment(**row) for row in environments),
        versions={"mtlfleet": versions[0]["mtlfleet_version"]} if versions else {},
    )


def save(verdicts: Sequence[Verdict], study: str, root: Root) -> bool:
    """Make the verdicts the current rows of the table ``verdicts``; False when it says the same already."""
    return write_document(root, study, "verdicts", [v.to_row() for v in verdicts]) is not None


def _rows(answers: _Answers, query: str, study: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answers.sql(query, [study]).to_pylist()
    return found


def _metric(row: Mapping[str, Any]) -> Metric:
    return Metric(
        row["metric"], row["direction"], row["unit"] or "", row["scale"], row["best"] or 0.0, row["description"] or ""
    )


def _along(claims: Iterable[Claim]) -> list[str]:
    """The metrics whose whole validation curves some claim asks for."""
    return sorted({f"{c.estimand.task}.{c.estimand.metric}" for c in claims if c.estimand.kind in ON_THE_WAY})


def _runs(answers: _Answers, study: str, along: list[str]) -> tuple[Run, ...]:
    curves: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    for row in answers.sql(CURVES, [study, along]).to_pylist() if along else ():
        own = curves.setdefault(row["trial_id"], {}).setdefault((row["task"], row["metric"]), [])
        own.append((row["device_s"], math.nan if row["value"] is None else row["value"]))
    values: dict[str, dict[tuple[str, str, str], float]] = {}
    for row in _rows(answers, VALUES, study):
        if row["value"] is not None:
            values.setdefault(row["trial_id"], {})[row["split"], row["task"], row["metric"]] = row["value"]
    return tuple(
        Run(
            trial=row["trial_id"],
            phase=row["phase"],
            method=row["method"],
            dataset=row["dataset"],
            architecture=row["architecture"],
            seed=row["seed"],
            use=row["method_use"] or "",
            task=row["task"],
            config_index=row["config_index"] or 0,
            state=row["state"],
            reason=row["exit_reason"] or "",
            label=row["label"] or row["trial_id"],
            params=row["params"] or "{}",
            attempts=row["n_attempts"],
            device_s=row["device_s"] or 0.0,
            test_reads=row["test_reads"],
            batches=row["batches"],
            budget=row["budget"],
            device=row["device"],
            started_at=row["started_at"] or "",
            values=values.get(row["trial_id"], {}),
            curves={at: tuple(points) for at, points in curves.get(row["trial_id"], {}).items()},
        )
        for row in _rows(answers, RUNS, study)
    )


def _registrations(locks: Iterable[Mapping[str, Any]]) -> Iterable[Registration]:
    for lock in locks:
        payload = lock["payload"]
        yield Registration(
            claim_id=lock["claim_id"],
            number=lock["number"],
            registration=str(payload.get("registration", "")) if isinstance(payload, Mapping) else "",
            registered_at=lock["registered_at"],
        )
