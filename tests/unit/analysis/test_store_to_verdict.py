"""A simulated study in a real store comes back as it was, is judged the same, and answers the report's SQL."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mtlfleet.plan.claims import Baseline, Claim
from mtlfleet.plan.tasks import METRICS
from mtlfleet.store import AttemptWriter, Ingester, Store, write_document
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.loading import Asked, asked_of_store, from_store, save
from mtlfleet_analysis.registering import lock
from mtlfleet_analysis.report import queries, render
from mtlfleet_analysis.simulation import Design, simulate

CLAIMS = (
    Claim(id="up", method="pcgrad", baseline=Baseline(best_of=("ls",)), margin=1.0),
    Claim(id="best", method="pcgrad", baseline=Baseline(best_of=("ls", "mean")), margin=1.0, family="two"),
)
EXACT = 6  # decimals that survive SQL's own order of adding up


def asked(evidence: Evidence) -> Asked:
    return Asked(
        name=evidence.study,
        title=evidence.title,
        sha256=evidence.sha256,
        datasets=evidence.datasets,
        architectures=evidence.architectures,
        methods=evidence.methods,
        seeds=evidence.seeds,
        claims=CLAIMS,
    )


def write(evidence: Evidence, root: Path) -> None:
    study = evidence.study
    write_document(root, study, "studies", [{"title": evidence.title, "spec": {}, "spec_sha256": evidence.sha256}])
    defs = [vars(METRICS["error"])]
    columns = ("unit", "direction", "scale", "best", "description")
    write_document(root, study, "metric_defs", [{"metric": d["name"], **{c: d[c] for c in columns}} for d in defs])
    tasks = [
        {
            "dataset": t.dataset,
            "task": t.task,
            "kind": "custom",
            "outputs": 1,
            "primary_metric": t.primary,
            "chance": t.chance,
        }
        for t in evidence.tasks
    ]
    write_document(root, study, "task_defs", tasks)
    names = sorted({t.task for t in evidence.tasks})
    trials = [
        {
            "trial_id": r.trial, "phase": r.phase, "method": r.method, "method_use": r.method, "dataset": r.dataset,
            "architecture": r.architecture, "task": r.task, "tasks": names if r.task == "*" else [r.task],
            "seed": r.seed, "config_index": r.config_index, "label": r.label, "params": r.params, "steps": 10,
        }
        for r in evidence.runs
    ]  # fmt: skip
    write_document(root, study, "trials", trials)
    lock(CLAIMS, study, evidence.sha256, root)
    for r in evidence.runs:
        writer = AttemptWriter.claim(
            root, study, r.trial, restored_step=0, restored_checkpoint=None, world_size=1, facts={}
        )
        for (split, task, metric), value in sorted(r.values.items()):
            writer.metric(5, 0.5, split, task, metric, value + 1, final=False) if split == "val" else None
            writer.metric(10, 1.0, split, task, metric, value, final=True)
        writer.close(r.state, r.reason, 10, r.device_s, r.device_s)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, Store]:
    design = Design(
        effects={"ls": 0.0, "mean": -1.0, "pcgrad": 3.0}, seeds=(0, 1, 2), fates={("mean", "waves", 1): "diverged"}
    )
    evidence = simulate(design, 0)
    root = tmp_path_factory.mktemp("store")
    write(evidence, root)
    with Ingester(root) as ingester:
        ingester.run_once()
        ingester.publish()
    return evidence, Store(root, evidence.study)


def test_evidence_survives_the_store(stored: tuple[Evidence, Store]) -> None:
    evidence, store = stored
    back = from_store(asked(evidence), store)
    forget = {"started_at": "", "attempts": 1}
    assert [replace(r, **forget) for r in back.runs] == [replace(r, **forget) for r in evidence.runs]
    assert back.tasks == tuple(sorted(evidence.tasks, key=lambda t: (t.dataset, t.task)))
    assert back.single_task == ("stl",)
    assert {r.claim_id for r in back.registrations} == {"up", "best"}


def test_the_store_alone_knows_what_was_asked(stored: tuple[Evidence, Store]) -> None:
    evidence, store = stored
    found = asked_of_store(store, evidence.study)
    assert {c.id: c for c in found.claims} == {c.id: c for c in CLAIMS}
    assert (found.sha256, found.seeds) == (evidence.sha256, evidence.seeds)


def test_verdicts_are_registered_judged_and_answer_sql(stored: tuple[Evidence, Store]) -> None:
    evidence, store = stored
    verdicts = judge_evidence(from_store(asked(evidence), store), CLAIMS)
    assert [v.verdict for v in verdicts] == ["supported", "supported"]
    assert all(v.detail["standing"]["status"] == "registered" for v in verdicts)
    direct = judge_evidence(replace(evidence, registrations=()), CLAIMS)
    assert [v.effect for v in verdicts] == [v.effect for v in direct]
    assert save(verdicts, evidence.study, store.root)
    assert not save(verdicts, evidence.study, store.root)
    row = store.rows("SELECT verdict, effect, guards, detail FROM verdicts WHERE claim_id = 'up'")[0]
    assert (row["verdict"], row["effect"], row["guards"]) == ("supported", verdicts[0].effect, [])
    assert json.loads(row["detail"])["registration"] == verdicts[0].detail["registration"]


def test_the_stores_own_delta_m_is_the_one_that_is_judged(stored: tuple[Evidence, Store]) -> None:
    evidence, store = stored
    verdict = judge_evidence(from_store(asked(evidence), store), CLAIMS[:1])[0]
    sql = store.rows(
        "SELECT dataset, seed, -delta_m_pct AS improvement FROM delta_m\n"
        "WHERE method = 'pcgrad' AND complete ORDER BY ALL"
    )
    mine = [(p[0], p[2], round(p[3], EXACT)) for p in verdict.detail["pairs"]]
    assert [(r["dataset"], r["seed"], round(r["improvement"], EXACT)) for r in sql] == mine


def test_the_queries_that_the_report_prints_are_answered(stored: tuple[Evidence, Store]) -> None:
    evidence, store = stored
    texts = [queries.of_claim(evidence.study, c) for c in CLAIMS]
    texts += [f(evidence.study) for f in (queries.leaderboard, queries.failures, queries.budget, queries.trials)]
    for query in [q for text in texts for q in text.split(";") if q.strip()]:
        assert store.sql(query).num_columns > 1
    assert store.sql(queries.failures(evidence.study)).num_rows == 1


def test_the_report_of_a_store_repeats_itself(stored: tuple[Evidence, Store], tmp_path: Path) -> None:
    evidence, store = stored
    first, second = (render(asked(evidence), store, tmp_path / n / "report.html").read_bytes() for n in "ab")
    assert first == second
    assert re.search(rb"simulated diverged", first)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["report.html"]
