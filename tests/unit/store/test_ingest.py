"""The published file: what is in it, who can open it, and that it can always be made again."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.store import AttemptWriter, Ingester, Store, digest, register_claim, stamp, write_document
from mtlfleet.store.layout import Segment
from mtlfleet.store.query import guarded
from mtlfleet.store.schema import ALL_TABLES, SEGMENT_TABLES
from mtlfleet.store.workfile import path_in

VIEWS = ("final_metrics", "leaderboard", "delta_m", "best_trial_per_method", "progress", "budget", "trial_summary")


def content(path: Path) -> dict[str, list[str]]:
    with duckdb.connect(str(path), read_only=True) as con:
        tables = [t.base for t in ALL_TABLES if t.name not in ("meta", "segments")] + list(VIEWS)
        queries = {t: f'SELECT * FROM "{t}" ORDER BY ALL' for t in tables}
        queries["segments"] = "SELECT * EXCLUDE (ingested_at) FROM segments ORDER BY ALL"
        answers = {t: con.sql(query).to_arrow_table().to_pylist() for t, query in queries.items()}
    return {t: [repr(row) for row in rows] for t, rows in answers.items()}  # repr: NaN equals NaN


def test_rebuilding_gives_what_was_folded_in_bit_by_bit(make_study: Callable[..., Path], small: ModuleType) -> None:
    root = make_study(skip=("ls0", "pcgrad1"))
    with Ingester(root) as ingester:
        assert ingester.run_once() > 0
        assert ingester.run_once() == 0
        small.write_trial(root, next(r for r in small.trial_rows() if r["trial_id"] == "ls0"))
        register_claim(root, "s", "c1", {"registration": "abc"})
        write_document(root, "s", "verdicts", [{"claim_id": "c1", "verdict": "supported", "detail": {"a": 1}}])
        ingester.run_once()
        small.write_trial(root, next(r for r in small.trial_rows() if r["trial_id"] == "pcgrad1"))
        ingester.run_once()
        incremental = content(ingester.publish())
        ingester.rebuild()
    assert content(root / "results.duckdb") == incremental
    assert "'registration': 'abc'" in incremental["claim_locks"][0]
    assert len(incremental["verdicts"]) == 1


def test_the_file_is_read_only_and_opens_in_released_clients(make_study: Callable[..., Path]) -> None:
    root = make_study()
    with Ingester(root) as ingester:
        path = ingester.publish()
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    header = path.read_bytes()[:20]
    assert header[8:12] == b"DUCK" and int.from_bytes(header[12:20], "little") == 68  # the format of DuckDB 1.5


def test_every_table_and_column_says_what_it_is(make_study: Callable[..., Path]) -> None:
    with Ingester(make_study()) as ingester:
        path = ingester.publish()
    with duckdb.connect(str(path), read_only=True) as con:
        tables = con.execute("SELECT table_name FROM duckdb_tables() WHERE comment IS NULL").fetchall()
        views = con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL").fetchall()
        columns = con.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
        ).fetchall()
    assert (tables, views, columns) == ([], [], [])


def test_a_reader_keeps_its_snapshot_while_others_are_published(
    make_study: Callable[..., Path], small: ModuleType
) -> None:
    root = make_study(skip=("ls0",))
    with Ingester(root) as ingester:
        ingester.run_once()
        reader = duckdb.connect(str(root / "results.duckdb"), read_only=True)
        before = reader.execute("SELECT count(*) FROM metrics").fetchone()
        small.write_trial(root, next(r for r in small.trial_rows() if r["trial_id"] == "ls0"))
        ingester.run_once()
        for _ in range(20):
            ingester.publish()
            assert reader.execute("SELECT count(*) FROM metrics").fetchone() == before
        reader.close()
    after = Store(root).rows("SELECT count(*) AS n FROM metrics")[0]["n"]
    assert before is not None and after > before[0]


def test_a_damaged_private_file_is_made_anew(make_study: Callable[..., Path]) -> None:
    root = make_study()
    with Ingester(root) as ingester:
        ingester.run_once()
    before = content(root / "results.duckdb")
    work = path_in(root)
    for damage in (b"", b"not a database", work.read_bytes()[:5000]):
        work.write_bytes(damage)
        with Ingester(root) as ingester:
            ingester.run_once()
            ingester.publish()
        assert content(root / "results.duckdb") == before


def test_a_second_ingester_is_told_to_wait(make_study: Callable[..., Path]) -> None:
    root = make_study()
    with Ingester(root) as first:
        with pytest.raises(EnvironmentProblem, match="another process"):
            Ingester(root)
        first.run_once()
    with Ingester(root) as second:
        assert second.run_once() == 0


def test_two_studies_in_one_store_are_kept_apart(tmp_path: Path, small: ModuleType) -> None:
    """With trials of the same names, one of them spoiled in one study, folded in by turns: each answers as if alone."""
    rows, both = small.trial_rows(("stl", "ls")), tmp_path / "both"
    alone = {study: tmp_path / study for study in ("s", "u")}

    def write(root: Path, study: str, row: dict[str, Any]) -> None:
        spoilt = study == "u" and row["trial_id"] == "ls1"
        small.write_trial(root, row, spoil=("a", "error") if spoilt else None, study=study)

    for study, root in alone.items():
        small.write_documents(root, rows, study)
        small.write_documents(both, rows, study)
        for row in rows:
            write(root, study, row)
    with Ingester(both) as ingester:
        for n, row in enumerate(rows):
            for study in alone:
                write(both, study, row)
                if n % 2:
                    ingester.run_once()
        ingester.publish()
    for study, root in alone.items():
        with Store(both).session() as asked, Store(root).session() as expected:
            for view in (*VIEWS, "metrics", "step_metrics"):
                timed = {"metrics": "logged_at", "trial_summary": "started_at, ended_at"}.get(view)
                columns = f"* EXCLUDE ({timed})" if timed else "*"
                query = f"SELECT {columns} FROM {view} WHERE study_id = '{study}' ORDER BY ALL"
                found = list(map(repr, asked.sql(query).to_pylist()))  # repr: NaN equals NaN
                assert found and found == list(map(repr, expected.sql(query).to_pylist())), (study, view)
    digests = {study: digest(Store(both), study) for study in alone}
    assert digests == {study: digest(Store(root), study) for study, root in alone.items()}
    assert digests["s"] != digests["u"]
    query = "SELECT study_id, sum(n_nonfinite)::INTEGER AS n FROM final_metrics GROUP BY ALL ORDER BY ALL"
    with guarded(both, query) as answer:  # as `mtlfleet sql` asks
        assert answer.reader.read_all().to_pylist() == [{"study_id": "s", "n": 0}, {"study_id": "u", "n": 1}]


def test_a_torn_segment_is_named_and_nothing_is_lost(make_study: Callable[..., Path]) -> None:
    root = make_study()
    with Ingester(root) as ingester:
        ingester.run_once()
        before = content(ingester.publish())
        folder = root / "segments/study=s/trial=ls0/attempt=1"
        torn = folder / "metrics-000099.parquet"
        torn.write_bytes((folder / "metrics-000001.parquet").read_bytes()[:-40])
        with pytest.raises(StoreDamaged, match="1 segment cannot be read") as caught:
            ingester.run_once()
        assert str(torn) in caught.value.notes
        assert content(ingester.publish()) == before
        torn.unlink()
        assert ingester.run_once() == 0


def test_a_damaged_snapshot_is_reported_with_what_to_do(make_study: Callable[..., Path]) -> None:
    root = make_study()
    (root / "results.duckdb").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreDamaged, match="cannot be opened"):
        Store(root).sql("SELECT 1")


def test_segments_with_other_columns_lose_and_invent_none(tmp_path: Path) -> None:
    """A file of an earlier version lacks a column, one of a later version has one more; each comes in by its names."""
    schema = SEGMENT_TABLES["metrics"].arrow
    row = {"study_id": "s", "trial_id": "t", "attempt": 1, "epoch": 0.5, "split": "val", "task": "a", "metric": "loss"}
    AttemptWriter.claim(tmp_path, "s", "t", restored_step=0, restored_checkpoint=None, world_size=1).abandon()
    for part in range(1, 7):
        rows = pa.Table.from_pylist([{**row, "step": part, "value": part / 4, "n": part}], schema=schema)
        if part % 3 == 0:
            rows = rows.drop_columns(["n"])
        if part % 3 == 1:
            rows = rows.append_column("later", pa.array([part]))
        path = tmp_path / Segment("s", "t", 1, "metrics", part).path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(stamp.encode(rows, {}))
    expected = [{"step": part, "value": part / 4, "n": part if part % 3 else None} for part in range(1, 7)]
    query = "SELECT step, value, n FROM metrics ORDER BY step"
    assert Store(tmp_path).rows(query) == expected
    with Ingester(tmp_path) as ingester:
        ingester.run_once()
    with duckdb.connect(str(tmp_path / "results.duckdb"), read_only=True) as con:
        assert con.sql(query).to_arrow_table().to_pylist() == expected
        ledger = con.execute("SELECT rows, min_step, max_step FROM segments ORDER BY segment").fetchall()
    assert ledger == [(1, part, part) for part in range(1, 7)]


def test_a_query_reads_what_it_names_of_what_is_pending(make_study: Callable[..., Path], small: ModuleType) -> None:
    root = make_study(skip=("ls0",))
    with Ingester(root) as ingester:
        ingester.run_once()
    small.write_trial(root, next(r for r in small.trial_rows() if r["trial_id"] == "ls0"))
    lost = next(root.glob("segments/study=s/trial=ls0/attempt=1/step_metrics-*.parquet"))
    lost.chmod(0o644)
    lost.write_bytes(lost.read_bytes()[:-9])
    store = Store(root)
    with store.session(asked="FROM leaderboard") as session:
        (told,) = session.sql("SELECT count(*) AS n FROM leaderboard WHERE method = 'ls' AND complete").to_pylist()
        assert told["n"] > 0 and session.freshness.pending_segments > 1
    assert store.rows("SELECT count(*) AS n FROM metrics WHERE trial_id = 'ls0'")[0]["n"] > 0
    for query in ("SELECT count(*) FROM step_metrics", "FROM duckdb_tables()", "SELECT * FROM twins"):
        with pytest.raises(StoreDamaged, match="1 segment cannot be read"):
            store.rows(query)
