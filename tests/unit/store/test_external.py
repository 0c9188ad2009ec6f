"""Published tables: read strictly, shown beside own results, and without any say in a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mtlfleet.errors import UsageError
from mtlfleet.store import Ingester, digest, open_store, read_document
from mtlfleet.store.external import delta_m, read_published

PUBLISHED = Path(__file__).parents[2] / "data/published_nyuv2.json"
command = import_module("mtlfleet.cli.import_").command


def run(*words: object) -> Result:
    return CliRunner().invoke(command, [str(w) for w in words], catch_exceptions=False)


def table(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": "d", "source": "somebody", "baseline_row": "STL",
        "metrics": [{"name": "accuracy", "task": "a", "higher_is_better": True},
                    {"name": "error", "task": "b", "higher_is_better": False}],
        "rows": {"STL": [0.5, 0.4], "X": [0.6, 0.2], "Half": [0.55, None]},
        "published_delta_m": {"X": -35.0}, **changes,
    }  # fmt: skip


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({"tables": [table(**changes)]}))
    return path


@pytest.fixture
def store(make_study: Callable[..., Path]) -> Path:
    return make_study()


def test_every_published_number_arrives_marked_external(store: Path) -> None:
    given = json.loads(PUBLISHED.read_text())["tables"][0]
    report = json.loads(run(store, PUBLISHED, "--json").stdout)
    assert report["methods"] == len(given["rows"]) == 22
    rows = open_store(store).rows("SELECT * FROM leaderboard WHERE external")
    assert {row["study_id"] for row in rows} == {"s"}
    values = {(r["method"], r["task"], r["metric"]): r["mean"] for r in rows}
    for method, line in given["rows"].items():
        for metric, value in zip(given["metrics"], line, strict=True):
            assert values[method, metric["task"], metric["name"]] == value
    for method, value in given["published_delta_m"].items():
        assert values[method, "*", "delta_m_pct"] == value
    assert all(row["rank"] is None and row["n_seeds"] is None and not row["complete"] for row in rows)


def test_what_a_row_says_is_compared_with_what_was_published() -> None:
    found = read_published(PUBLISHED)
    assert [doubt.split(":")[0] for doubt in found.doubts] == ["nyuv2, IMTL-G"]
    verified = json.loads(PUBLISHED.read_text())["tables"][0]["verification"]
    for method, facts in verified.items():
        given = json.loads(PUBLISHED.read_text())["tables"][0]
        higher = [m["higher_is_better"] for m in given["metrics"]]
        computed = delta_m(given["rows"][method], given["rows"]["STL"], higher)
        assert computed == pytest.approx(facts["delta_m_recomputed"], abs=6e-4)


def test_own_rows_ranks_and_digest_stay_as_they_were(store: Path, tmp_path: Path) -> None:
    before = open_store(store).rows("SELECT * FROM leaderboard ORDER BY ALL")
    kept = digest(open_store(store), "s")
    run(store, written(tmp_path / "p.json"))
    with Ingester(store) as ingester:  # and from the published file
        ingester.run_once()
    assert open_store(store).rows("SELECT * FROM leaderboard WHERE NOT external ORDER BY ALL") == before
    assert digest(open_store(store), "s") == kept
    beside = open_store(store).rows(
        "SELECT method, mean, external FROM leaderboard WHERE dataset = 'd' AND metric = 'delta_m_pct' AND external"
        " ORDER BY method"
    )
    assert beside == [
        {"method": "STL", "mean": 0.0, "external": True},
        {"method": "X", "mean": -35.0, "external": True},  # "Half" lacks a term: no delta_m
    ]


def test_importing_again_replaces_and_other_sources_stay(store: Path, tmp_path: Path) -> None:
    run(store, written(tmp_path / "a.json"))
    run(store, written(tmp_path / "b.json", source="another"))
    assert run(store, written(tmp_path / "a.json")).stdout.startswith("already there")
    run(store, written(tmp_path / "a.json", rows={"STL": [0.5, 0.4]}, published_delta_m={}))
    found = {(r["source"], r["method"]) for r in read_document(store, "s", "external_metrics")}
    assert found == {("somebody", "STL"), ("another", "STL"), ("another", "X"), ("another", "Half")}


def test_a_dataset_gets_the_studys_name(store: Path, tmp_path: Path) -> None:
    run(store, written(tmp_path / "p.json", dataset="D-2024"), "--dataset", "D-2024=d")
    assert {r["dataset"] for r in read_document(store, "s", "external_metrics")} == {"d"}
    with pytest.raises(UsageError, match="has no dataset `other`"):
        run(store, tmp_path / "p.json", "--dataset", "other=d")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "is not a table"),
        ("[]", "expected an object"),
        ('{"tables": {}}', "tables: expected a list, found dict"),
        ('{"tables": []}', "holds no results"),
        (json.dumps({"tables": [table(rows={"X": [1.0]})]}), "tables[0].rows.X: expected 2 values"),
        (json.dumps({"tables": [table(rows={"X": [1.0, "2"]})]}), "expected numbers or null, found '2'"),
        (json.dumps({"tables": [table(rows={"X": [1.0, True]})]}), "expected numbers or null, found True"),
        (json.dumps({"tables": [table(baseline_row="none")]}), "no row is called `none`"),
        (json.dumps({"tables": [table(metrics=[{"name": "a", "task": "t"}])]}), "metrics[0].higher_is_better"),
        (json.dumps({"tables": [table(source="x" * 3000)]}), "3000 characters"),
        ('{"tables": [], "tables": []}', "`tables` stands there twice"),
        ('{"tables": [NaN]}', "NaN is no published number"),
        ("[" * 100_000, "is not a table"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_one_is_refused_with_the_place(store: Path, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        run(store, path)
    assert says in caught.value.message
    assert read_document(store, "s", "external_metrics") == []


def test_text_of_the_file_cannot_command_a_terminal(store: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "p.json", source="\x1b]52;c;aGk=\x07 paper", published_delta_m={"X": 99.0})
    found = run(store, path)
    assert "\x1b" not in found.stdout + found.stderr and "99" in found.stderr
