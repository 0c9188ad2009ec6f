"""Queries that would do more than read: each is refused, with the kernel's help and without, and no file changes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtlfleet.errors import FleetError, QueryFailed, QueryRefused, QueryTimeout
from mtlfleet.store import Ingester
from mtlfleet.store.guard import check
from mtlfleet.store.query import guarded

HOSTILE = (
    "COPY (SELECT 1) TO '{root}/x.parquet'",
    "COPY (SELECT 1) TO '{root}/results.duckdb' (USE_TMP_FILE false)",
    "WITH x AS (COPY (SELECT 1) TO '{root}/f.csv' (USE_TMP_FILE false)) FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{segment}' (USE_TMP_FILE false)) FROM x",
    "SELECT * FROM (WITH x AS (COPY (SELECT 1) TO '{root}/g.csv') FROM x)",
    "WITH x AS (INSERT INTO trials_x VALUES (1) RETURNING *) FROM x",
    "WITH x AS (DELETE FROM attempts RETURNING *) FROM x",
    "WITH x AS (UPDATE attempts SET attempt = 9 RETURNING *) FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/h.csv'",
    "EXPLAIN SELECT 1",
    "ATTACH '{root}/y.duckdb'",
    "DETACH snapshot",
    "DETACH snapshot; COPY (SELECT 1) TO '{root}/results.duckdb' (USE_TMP_FILE false)",
    "EXPORT DATABASE '{root}/z'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW metrics",
    "INSERT INTO attempts SELECT * FROM attempts",
    "CHECKPOINT",
    "VACUUM",
    "SELECT 1; SELECT 2",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('{root}/results.duckdb')",
    "SELECT * FROM read_parquet('{segment}')",
    "SELECT * FROM '{segment}'",
    "FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query('WITH x AS (COPY (SELECT 1) TO ''{root}/q.csv'') FROM x')",
    "SELECT * FROM query_table('metrics')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT getenv('HOME')",
    "SELECT (SELECT count(*) FROM read_text('/etc/passwd'))",
    "SELECT * FROM duckdb_secrets()",
    "FROM sqlite_scan('/etc/passwd', 'x')",
    "PIVOT metrics ON task USING sum(value)",
    "",
    "-- nothing",
)  # fmt: skip
HARMLESS = (
    "SELECT count(*) FROM metrics",
    "FROM leaderboard SELECT method, mean WHERE complete",
    "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r WHERE a < 5) SELECT sum(a) FROM r",
    "SELECT method FROM trials UNION SELECT dataset FROM trials",
    "DESCRIBE metrics",
    "SHOW TABLES",
    "SUMMARIZE metrics",
    "SELECT * FROM (PIVOT final_metrics ON task IN ('a', 'b') USING avg(value))",
    "SELECT t.trial_id, u FROM trials t, unnest(t.tasks) x(u)",
    "SELECT metric, avg(value) OVER (PARTITION BY task) FROM metrics QUALIFY row_number() OVER () = 1",
    "SELECT params->>'c' FROM trials;",
    "SELECT * FROM duckdb_columns() WHERE comment LIKE '%NaN%'",
)


def hashes(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def store(make_study: Callable[..., Path]) -> Path:
    root = make_study()
    with Ingester(root) as ingester:
        ingester.run_once()
    return root


def test_every_hostile_query_fails_and_no_file_changes(store: Path) -> None:
    """All in one child each way would share state, so each gets its own; a few stand for the slow path in full."""
    segment = store / "segments/study=s/trial=ls0/attempt=1/metrics-000001.parquet"
    before = hashes(store)
    passed = []
    for query in HOSTILE:
        text = query.format(root=store, segment=segment)
        try:
            check(text)
        except (QueryRefused, QueryFailed):
            continue
        passed.append(query)
    # What the syntax lets through are names of files as tables: those need the locked configuration.
    assert passed == ["SELECT * FROM '{segment}'", "FROM '/etc/passwd'"]
    for landlock in (True, False):
        for query in (*passed, HOSTILE[2], HOSTILE[8]):
            text = query.format(root=store, segment=segment)
            with pytest.raises(FleetError), guarded(store, text, landlock=landlock) as answer:
                answer.reader.read_all()
    assert hashes(store) == before


def test_the_kernel_refuses_writes_even_where_the_syntax_check_is_bypassed(store: Path, tmp_path: Path) -> None:
    """The layers are independent: with the syntax check gone, a COPY inside a SELECT still reaches no file."""
    program = (
        "import sys; from pathlib import Path; from mtlfleet.store.landlock import deny_writes\n"
        "scratch, target = map(Path, sys.argv[1:])\n"
        "if not deny_writes(scratch): print('absent'); raise SystemExit\n"
        "import duckdb\n"
        "con = duckdb.connect()\n"
        "con.execute(f\"COPY (SELECT 1) TO '{scratch}/ok.csv'\")\n"
        "try:\n    con.execute(f\"WITH x AS (COPY (SELECT 1) TO '{target}' (USE_TMP_FILE false)) FROM x\").fetchall()\n"
        "except duckdb.Error as error: print(error)\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    target = store / "segments/study=s/trial=ls0/attempt=1/metrics-000001.parquet"
    before = hashes(store)
    found = subprocess.run(
        [sys.executable, "-c", program, str(scratch), str(target)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if "absent" in found.stdout:
        pytest.skip("this kernel has no Landlock")
    assert "Permission denied" in found.stdout
    assert (scratch / "ok.csv").exists()
    assert hashes(store) == before


@pytest.mark.parametrize("query", HARMLESS)
def test_what_only_reads_passes_the_syntax_check(query: str) -> None:
    check(query)


def test_harmless_queries_are_answered(store: Path) -> None:
    for query in HARMLESS[:1] + HARMLESS[7:8]:
        with guarded(store, query) as answer:
            rows = answer.reader.read_all()
        assert rows.num_rows >= 1
        assert str(answer.freshness).endswith("+ 0 pending segments")


def test_pending_segments_are_in_the_answer(store: Path, small: object) -> None:
    row = dict(small.trial_rows(("ls",))[0], trial_id="ls9")  # type: ignore[attr-defined]
    small.write_trial(store, row)  # type: ignore[attr-defined]
    with guarded(store, "SELECT count(*) AS n FROM metrics WHERE trial_id = 'ls9'") as answer:
        assert answer.reader.read_all().to_pylist() == [{"n": 10}]
    assert answer.freshness.pending_segments == 4


@pytest.mark.parametrize("columns", ["count(*)", "a"])  # without a row before the end; with rows on the way
def test_a_query_that_takes_too_long_is_ended(store: Path, columns: str) -> None:
    query = f"SELECT {columns} FROM range(1000000000000) t(a) WHERE a % 7777777 = 3"
    with pytest.raises(QueryTimeout, match="ran past"), guarded(store, query, timeout_s=0.5) as answer:
        answer.reader.read_all()


def test_unknown_names_are_answered_with_near_ones(store: Path) -> None:
    with pytest.raises(QueryFailed) as caught, guarded(store, "SELECT * FROM leaderbord") as answer:
        answer.reader.read_all()
    assert caught.value.help is not None and "did you mean `leaderboard`" in caught.value.help
    with pytest.raises(QueryFailed, match='"value"'), guarded(store, "SELECT valeu FROM metrics") as answer:
        answer.reader.read_all()
    with pytest.raises(QueryFailed, match=r"LINE 1[\s\S]*\^"), guarded(store, "SELECT 1 FRM metrics x y") as answer:
        answer.reader.read_all()


def test_the_child_sees_no_secret_of_the_environment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "s3cret-canary")
    query = "SELECT string_agg(name || value, ',') AS s FROM duckdb_settings()"
    with guarded(store, query) as answer:
        assert "s3cret-canary" not in json.dumps(answer.reader.read_all().to_pylist())
