"""A simulated study in a real store comes back as it was, is judged the same, and answers the report's SQL."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from mtlfleet.store import Store, write_document
from mtlfleet.store.external import TABLE, read_published
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.leaderboard import leaderboard
from mtlfleet_analysis.loading import Asked, asked_of_store, from_store, save
from mtlfleet_analysis.report import queries, render

Stored = tuple[Evidence, Store, Asked]
EXACT = 6  # decimals that survive SQL's own order of adding up


def test_evidence_survives_the_store(stored: Stored) -> None:
    evidence, store, asked = stored
    back = from_store(asked, store)
    forget = {"started_at": "", "attempts": 1}
    assert [replace(r, **forget) for r in back.runs] == [replace(r, **forget) for r in evidence.runs]
    assert back.tasks == tuple(sorted(evidence.tasks, key=lambda t: (t.dataset, t.task)))
    assert back.single_task == ("stl",)
    assert {r.claim_id for r in back.registrations} == {"up", "best"}


def test_the_store_alone_knows_what_was_asked(stored: Stored) -> None:
    evidence, store, asked = stored
    found = asked_of_store(store, evidence.study)
    assert {c.id: c for c in found.claims} == {c.id: c for c in asked.claims}
    assert (found.sha256, found.seeds) == (evidence.sha256, evidence.seeds)


def test_verdicts_are_registered_judged_and_answer_sql(stored: Stored) -> None:
    evidence, store, asked = stored
    verdicts = judge_evidence(from_store(asked, store), asked.claims)
    assert [v.verdict for v in verdicts] == ["supported", "supported"]
    assert all(v.detail["standing"]["status"] == "registered" for v in verdicts)
    direct = judge_evidence(replace(evidence, registrations=()), asked.claims)
    assert [v.effect for v in verdicts] == [v.effect for v in direct]
    assert save(verdicts, evidence.study, store.root)
    assert not save(verdicts, evidence.study, store.root)
    row = store.rows("SELECT verdict, effect, guards, detail FROM verdicts WHERE claim_id = 'up'")[0]
    assert (row["verdict"], row["effect"], row["guards"]) == ("supported", verdicts[0].effect, [])
    assert json.loads(row["detail"])["registration"] == verdicts[0].detail["registration"]


def test_the_stores_own_delta_m_is_the_one_that_is_judged(stored: Stored) -> None:
    _evidence, store, asked = stored
    verdict = judge_evidence(from_store(asked, store), asked.claims[:1])[0]
    sql = store.rows(
        "SELECT dataset, seed, -delta_m_pct AS improvement FROM delta_m\n"
        "WHERE method = 'pcgrad' AND complete ORDER BY ALL"
    )
    mine = [(p[0], p[2], round(p[3], EXACT)) for p in verdict.detail["pairs"]]
    assert [(r["dataset"], r["seed"], round(r["improvement"], EXACT)) for r in sql] == mine


def test_the_queries_that_the_report_prints_are_answered(stored: Stored) -> None:
    evidence, store, asked = stored
    texts = [queries.of_claim(evidence.study, c) for c in asked.claims]
    texts += [f(evidence.study) for f in (queries.leaderboard, queries.failures, queries.budget, queries.trials)]
    for query in [q for text in texts for q in text.split(";") if q.strip()]:
        assert store.sql(query).num_columns > 1
    assert store.sql(queries.failures(evidence.study)).num_rows == 1


def test_the_report_of_a_store_repeats_itself(stored: Stored, tmp_path: Path) -> None:
    _evidence, store, asked = stored
    first, second = (render(asked, store, tmp_path / n / "report.html").read_bytes() for n in "ab")
    assert first == second
    assert re.search(rb"simulated diverged", first)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["report.html"]


def test_published_tables_have_no_say(stored: Stored, tmp_path: Path) -> None:
    """The same method names and datasets with absurd numbers: every verdict, rank and own row stays as it was."""
    _evidence, store, asked = stored
    before = from_store(asked, store)
    metrics = [{"name": m, "task": "a", "higher_is_better": True} for m in ("accuracy", "other")]
    lines = {method: [1e6, -1e6] for method in (*asked.methods, "famo")} | {"STL": [1.0, 1.0]}
    tables = [
        {"dataset": d, "source": "<b>else</b>", "metrics": metrics, "baseline_row": "STL", "rows": lines,
         "published_delta_m": {"famo": -4.1}}
        for d in asked.datasets
    ]  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps({"tables": tables}))
    write_document(store.root, asked.name, TABLE, read_published(tmp_path / "p.json").rows)
    after = from_store(asked, store)
    values = 2 * (len(lines)) + len(lines)  # two metrics and delta_m of every row
    assert len(after.external) == len(asked.datasets) * values
    assert replace(after, external=()) == before
    assert judge_evidence(after, asked.claims) == judge_evidence(before, asked.claims)
    assert leaderboard(after) == leaderboard(before)
    page = render(asked, store, tmp_path / "r.html").read_text()
    assert page.count("Published elsewhere") == len(asked.datasets)
    assert "famo" in page and "<b>else" not in page and "&lt;b&gt;else" in page


def test_a_claim_about_a_method_that_was_only_published_is_not_judged(stored: Stored, tmp_path: Path) -> None:
    _evidence, store, asked = stored
    rows = {"STL": [1.0], "famo": [9.0]}
    metrics = [{"name": "accuracy", "task": "a", "higher_is_better": True}]
    tables = [
        {"dataset": d, "source": "s", "metrics": metrics, "baseline_row": "STL", "rows": rows} for d in asked.datasets
    ]
    (tmp_path / "p.json").write_text(json.dumps({"tables": tables}))
    write_document(store.root, asked.name, TABLE, read_published(tmp_path / "p.json").rows)
    (verdict,) = judge_evidence(from_store(asked, store), [replace(asked.claims[0], method="famo")])
    assert (verdict.verdict, verdict.p_value, verdict.n_pairs) == ("invalid", None, 0), verdict.sentence
