"""Queries that would do more than read: each is refused by the syntax alone, again by the kernel and the settings where
the syntax is not looked at, and no file changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import pytest

from mtlfleet.errors import QueryFailed, QueryRefused, QueryTimeout
from mtlfleet.store import Ingester
from mtlfleet.store.guard import check
from mtlfleet.store.limits import MIB, memory_bytes
from mtlfleet.store.query import Question, Reader, guarded

WRITES = (
    "COPY (SELECT 1) TO '{root}/x.parquet'",
    "COPY (SELECT 1) TO '{root}/results.duckdb' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{segment}' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{sealed}' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY (SELECT 1 AS a) TO '{root}/parts' (FORMAT csv, PARTITION_BY (a), OVERWRITE_OR_IGNORE)",
    "COPY attempts FROM '{root}/results.duckdb'",
    "COPY FROM DATABASE snapshot TO memory",
    "WITH x AS (COPY (SELECT 1) TO '{root}/f.csv' (USE_TMP_FILE false)) FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{segment}' (USE_TMP_FILE false)) FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{root}/results.duckdb' (USE_TMP_FILE false)) FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{sealed}' (FORMAT parquet, USE_TMP_FILE false)) FROM x",
    "WITH a AS (SELECT 1), x AS MATERIALIZED (COPY (FROM a) TO '{root}/m.csv') SELECT * FROM a, x",
    "SELECT * FROM (WITH x AS (COPY (SELECT 1) TO '{root}/g.csv') FROM x)",
    "WITH x AS (INSERT INTO meta VALUES ('a', 'b') RETURNING *) FROM x",
    "WITH x AS (DELETE FROM attempts RETURNING *) FROM x",
    "WITH x AS (UPDATE attempts SET attempt = 9 RETURNING *) FROM x",
    "WITH x AS (DELETE FROM snapshot.main.attempts RETURNING *) SELECT count(*) FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/h.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/results.duckdb' (USE_TMP_FILE false)",
    "EXPLAIN COPY (SELECT 1) TO '{root}/h.csv'",
    "ATTACH '{root}/y.duckdb'",
    "ATTACH '{root}/results.duckdb' AS w (READ_WRITE)",
    "ATTACH OR REPLACE '{root}/results.duckdb' AS snapshot",
    "ATTACH ':memory:' AS m",
    "DETACH snapshot",
    "DETACH snapshot; COPY (SELECT 1) TO '{root}/results.duckdb' (USE_TMP_FILE false)",
    "USE memory; DETACH snapshot; COPY (SELECT 1) TO '{root}/results.duckdb' (USE_TMP_FILE false)",
    "USE memory; DETACH snapshot; ATTACH '{root}/results.duckdb' AS w; DROP TABLE w.attempts",
    "EXPORT DATABASE '{root}/z'",
    "EXPORT DATABASE '{root}' (FORMAT parquet)",
    "IMPORT DATABASE '{root}'",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW metrics AS SELECT 1",
    "CREATE MACRO f(a) AS a",
    "CREATE SEQUENCE s",
    "CREATE TYPE mood AS ENUM ('a')",
    "DROP VIEW metrics",
    "ALTER TABLE attempts ADD COLUMN x INTEGER",
    "INSERT INTO attempts SELECT * FROM attempts",
    "DELETE FROM attempts",
    "UPDATE attempts SET attempt = 1",
    "TRUNCATE attempts",
    "MERGE INTO attempts USING trials ON false WHEN NOT MATCHED THEN INSERT BY NAME",
    "COMMENT ON TABLE attempts IS 'x'",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "BEGIN TRANSACTION",
    "PIVOT (WITH x AS (COPY (SELECT 1 AS a) TO '{root}/p.csv') FROM x) ON a",
)  # fmt: skip
READS_OUTSIDE = (
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_text('{root}/results.duckdb')",
    "SELECT * FROM read_blob('{root}/results.duckdb')",
    "SELECT * FROM read_parquet('{segment}')",
    "SELECT * FROM parquet_scan('{segment}')",
    "SELECT * FROM parquet_scan('{sealed}')",
    "SELECT * FROM '{sealed}'",
    "SELECT * FROM read_parquet('{root}/sealed/stray.parquet')",
    "SELECT * FROM read_parquet('{root}/sealed/**/*.parquet')",
    "SELECT * FROM parquet_metadata('{segment}')",
    "SELECT * FROM parquet_kv_metadata('{segment}')",
    "SELECT * FROM read_json('/etc/hostname')",
    "SELECT * FROM read_ndjson_objects('/etc/hostname')",
    "SELECT * FROM read_duckdb('{root}/results.duckdb')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM system.main.read_text('/etc/passwd')",
    "SELECT * FROM '{segment}'",
    "SELECT * FROM '{root}/segments/**/*.parquet'",
    "SELECT * FROM \"{segment}\"",
    "FROM '/etc/passwd'",
    "FROM 'passwd.csv'",
    "FROM passwd.csv",
    "DESCRIBE '{segment}'",
    "SUMMARIZE '{segment}'",
    "SELECT * FROM 'https://example.invalid/x.parquet'",
    "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT (SELECT count(*) FROM read_text('/etc/passwd'))",
    "SELECT 1 WHERE EXISTS (FROM read_csv('/etc/passwd'))",
    "SELECT * FROM trials t, LATERAL (SELECT * FROM read_text('/etc/' || t.trial_id)) x",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query('FROM ''/etc/passwd''')",
    "SELECT * FROM query('WITH x AS (COPY (SELECT 1) TO ''{root}/q.csv'') FROM x')",
    "SELECT * FROM query_table('metrics')",
    "SELECT * FROM query_table(['/etc/passwd'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "PRAGMA json_execute_serialized_sql('x')",
    "SELECT getenv('HOME')",
    "SELECT list_transform(['HOME'], lambda x: getenv(x))",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "SELECT * FROM duckdb_logs()",
    "SELECT * FROM duckdb_external_file_cache()",
    "FROM sqlite_scan('/etc/passwd', 'x')",
    "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 't')",
    "SELECT * FROM python_map_function()",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT write_log('x')",
    "SELECT nextval('s')",
)  # fmt: skip
SETTINGS = (
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '/tmp/evil.duckdb_extension'",
    "FORCE INSTALL sqlite",
    "UPDATE EXTENSIONS",
    "SET enable_external_access = true",
    "SET memory_limit = '1TB'",
    "SET GLOBAL allowed_directories = ['/']",
    "SET temp_directory = '{root}'",
    "RESET lock_configuration",
    "SET VARIABLE x = 1",
    "PRAGMA database_list",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA profiling_output = '{root}/p.json'",
    "CALL pragma_version()",
    "CALL enable_logging()",
    "CALL force_checkpoint()",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "EXPLAIN SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{root}/two.csv'",
    "PIVOT metrics ON task USING sum(value); SELECT 1",
    "SELECT sleep_ms(100000)",
    "",
    "-- nothing",
    "/* SELECT 1 */ ;",
)  # fmt: skip
HOSTILE = (*WRITES, *READS_OUTSIDE, *SETTINGS)
HARMLESS = (
    "SELECT count(*) FROM metrics",
    "SELECT count(*) FROM step_metrics",
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
    'WITH "two words" AS (SELECT 1) FROM "two words"',
    "SELECT table_name FROM information_schema.tables",
    "SELECT main.metrics.value FROM main.metrics",
    "VALUES (1), (2)",
)


def hashes(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def store(make_study: Callable[..., Path]) -> Path:
    """With sealed files, which a query process must be let read, and one more beside them."""
    root = make_study()
    with Ingester(root, max_bytes=1) as ingester:
        ingester.run_once()
    shutil.copy(next((root / "sealed").rglob("*.parquet")), root / "sealed/stray.parquet")
    return root


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A name for a store in queries that are only parsed."""
    return tmp_path_factory.mktemp("store")


def words(query: str, root: Path) -> str:
    sealed = next((root / "sealed/study=s/trial=ls0").glob("step_metrics-*.parquet"), root / "sealed/x.parquet")
    segment = root / "segments/study=s/trial=ls0/attempt=1/metrics-000001.parquet"
    return query.format(root=root, segment=segment, sealed=sealed)


# What a query process runs, once for the whole corpus: ``prepare``, then ``answer`` for each query, with the layers
# that were not asked for taken out. Says of each query how it ended, and whether it got as far as the store. It leaves
# as a query process does, without tearing DuckDB and Arrow down.
CHILD = """
import io, json, os, sys
from pathlib import Path
from mtlfleet.store import limits, reader
root, scratch, layers = Path(sys.argv[1]), Path(sys.argv[2]), set(sys.argv[3:])
memory = min(limits.memory_bytes(), 1 << 30)
denied = reader.prepare(scratch, landlock="landlock" in layers, memory=memory, parent=os.getppid())
if "landlock" in layers and not denied:
    print("absent"); raise SystemExit
from mtlfleet.store import guard, session
if "syntax" not in layers:
    guard.check = lambda *_, **__: None
if "settings" not in layers:
    session.lock_down = lambda _: None
attach, reached, ended = session.attach, [], {}
session.attach = lambda *a, **k: (reached.append(1), attach(*a, **k))[1]
needed = {path: path.read_bytes() for path in (root / "results.duckdb", *(root / "sealed").rglob("*.parquet"))}
for query in json.load(sys.stdin):
    reached.clear()
    request = dict(root=str(root), query=query, params={}, form="csv", source="snapshot", timeout_s=20.0, limit=None)
    try:
        reader.answer(request, io.BytesIO(), scratch, denied=denied, memory=memory)
        how = "ran"
    except Exception as error:
        how = type(error).__name__ + ": " + str(error)[:200]
    for path, whole in needed.items():
        if path.read_bytes() != whole:  # put back, so that the next query finds a store; where a layer holds, never
            how = "overwrote " + ("the snapshot" if path.suffix == ".duckdb" else "a sealed file")
            path.unlink()
            path.write_bytes(whole)
    ended[query] = how, bool(reached)
print(json.dumps(ended), flush=True)
os._exit(0)
"""


def ask_all(root: Path, queries: Sequence[str], *layers: str) -> dict[str, tuple[str, bool]]:
    """Query -> (how it ended, whether it passed the syntax check), in one process with only these layers."""
    asked = json.dumps([words(query, root) for query in queries])
    with tempfile.TemporaryDirectory() as scratch:
        found = subprocess.run(
            [sys.executable, "-c", CHILD, str(root), scratch, *layers], input=asked,
            capture_output=True, text=True, timeout=240, cwd=scratch, check=False,
        )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    if found.stdout.strip() == "absent":
        pytest.skip("this kernel has no Landlock")
    ended = {query: (how, reached) for query, (how, reached) in json.loads(found.stdout).items()}
    assert len(ended) == len(queries)
    return ended


def is_refused(how: str) -> bool:
    return how.startswith(("QueryRefused: ", "QueryFailed: "))


def test_every_query_of_the_corpus_is_refused_in_the_child(store: Path) -> None:
    """All layers, as shipped."""
    before = hashes(store)
    ended = ask_all(store, HOSTILE, "landlock", "syntax", "settings")
    assert {query: how for query, (how, _) in ended.items() if not is_refused(how)} == {}
    assert hashes(store) == before


def test_the_syntax_alone_refuses_what_does_more_than_read(store: Path) -> None:
    """What the portable layer must hold by itself: no query of the corpus gets as far as the store."""
    before = hashes(store)
    ended = ask_all(store, HOSTILE, "syntax")
    assert {query: found for query, found in ended.items() if not is_refused(found[0]) or found[1]} == {}
    assert hashes(store) == before


def test_what_only_reads_passes_the_syntax_check() -> None:
    for query in HARMLESS:
        check(query)


def test_the_kernel_refuses_every_write_by_itself(store: Path) -> None:
    """No syntax check, no locked settings: Landlock alone keeps every file as it is, after DETACH too."""
    before = hashes(store)
    (store / "results.duckdb").chmod(0o644)  # file modes are out too
    ended = ask_all(store, [*WRITES, *(q for q in (*READS_OUTSIDE, *SETTINGS) if "COPY" in q)], "landlock")
    assert hashes(store) == before
    denied = [query for query, (how, _) in ended.items() if "Permission denied" in how]
    assert len(denied) >= 10  # the ones that got as far as a file
    assert any("DETACH" in query for query in denied)


def test_without_the_kernel_and_the_settings_the_corpus_does_harm(store: Path) -> None:
    """The corpus is sharp: with the layers taken out, it changes files and reads others'."""
    before = hashes(store)
    fetched = ("://", "sqlite", "postgres")  # an extension or a file from the network: nothing comes of it here
    queries = [q for q in (*WRITES, *READS_OUTSIDE) if not any(word in q for word in fetched)]
    ended = [how for how, _ in ask_all(store, queries).values()]
    changed = {Path(p).name for p, digest in hashes(store).items() if before.get(p) != digest}
    assert {"x.parquet", "f.csv", "m.csv", "h.csv", "metrics-000001.parquet"} <= changed
    assert sum(how == "overwrote the snapshot" for how in ended) >= 3
    assert sum(how == "overwrote a sealed file" for how in ended) == 2
    assert sum(how == "ran" for how in ended) >= 25


def test_locked_settings_alone_still_let_a_detached_snapshot_be_overwritten(store: Path) -> None:
    """Why there are three layers: DuckDB keeps the path of an attached file writable after DETACH."""
    trick = next(q for q in WRITES if q.startswith("USE memory; DETACH snapshot; COPY"))
    (store / "results.duckdb").chmod(0o644)  # the third layer, file modes, is out too
    assert [how for how, _ in ask_all(store, [trick], "settings").values()] == ["overwrote the snapshot"]


def test_locked_settings_refuse_every_read_outside_by_themselves(store: Path) -> None:
    queries = [q for q in READS_OUTSIDE if "/etc/" in q or "segment" in q or "://" in q or "{root}/sealed" in q]
    ended = ask_all(store, queries, "settings")
    assert [q for q, (how, _) in ended.items() if how == "ran"] == []


def test_a_pivot_runs_where_the_kernel_refuses_writes(store: Path) -> None:
    query = "PIVOT final_metrics ON task USING count(*) GROUP BY metric ORDER BY metric"
    with guarded(store, query) as answer:
        rows = answer.reader.read_all().to_pylist()
    if not answer.facts["landlock"]:
        pytest.skip("this kernel has no Landlock")
    assert [sorted(row) for row in rows] == [["a", "b", "metric"]] * 3
    with pytest.raises(QueryRefused, match="no Landlock"), guarded(store, query, landlock=False):
        pass


def test_published_files_cannot_be_written_by_accident(store: Path) -> None:
    files = [p for p in store.rglob("*") if p.suffix == ".parquet" or p.name == "results.duckdb"]
    assert len(files) > 20
    assert {p.stat().st_mode & 0o777 for p in files} == {0o444}


BOMBS = {
    "endless recursion": "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r",
    "endless loop": "SELECT count(*) FROM range(100000000000000) a, range(1000000) b",
    "large sort": "SELECT md5(a::VARCHAR) AS m, md5(m) AS n FROM range(4000000000) t(a) ORDER BY ALL",
    "large text": "SELECT repeat(repeat('x', 1000000), 1000000) AS t",
    "large list": "SELECT list(a) AS l FROM range(100000000000) t(a)",
    "cross join": "SELECT count(DISTINCT concat(a, b)) FROM range(100000000) x(a), range(10000000) y(b)",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_ends_within_its_limits(bomb: str, store: Path) -> None:
    """Refused, timed out or out of memory; never unbounded, and the store is as before."""
    before = hashes(store)
    with Reader() as reader, pytest.raises((QueryTimeout, QueryFailed, QueryRefused)) as caught:
        stream = reader.ask(store, Question(query=BOMBS[bomb], form="csv", timeout_s=1.0))
        while stream.read(1 << 20):
            pass
        reader.report()
    assert any(word in str(caught.value) for word in ("ran past", "memory", "killed", "maximum supported"))
    assert hashes(store) == before


def test_deep_nesting_is_refused_not_crashed(shown: Path) -> None:
    for query in ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "SELECT " + "[" * 900 + "1" + "]" * 900):
        with pytest.raises((QueryRefused, QueryFailed)):
            check(query)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def orphan(store: Path) -> Iterator[int]:
    """The id of a query process whose parent was killed while it worked."""
    program = (
        "import sys, time; from pathlib import Path; from mtlfleet.store.query import Question, Reader\n"
        "reader = Reader()\n"
        "reader.ask(Path(sys.argv[1]), Question(query='SELECT count(*) FROM range(100000000000000)', timeout_s=300))\n"
        "status = Path(f'/proc/{reader._child.pid}/task')\n"
        "while len(list(status.iterdir())) < 2: time.sleep(0.05)\n"  # DuckDB's threads: it is at work
        "print(reader._child.pid, flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdin is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    yield child
    if alive(child):
        os.kill(child, 9)


@pytest.mark.skipif(sys.platform != "linux", reason="the wish to die with the parent is Linux's")
def test_a_query_does_not_outlive_the_one_who_asked(orphan: int) -> None:
    deadline = time.monotonic() + 20
    while alive(orphan) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(orphan)


def test_harmless_queries_are_answered(store: Path) -> None:
    for query in HARMLESS[:1] + HARMLESS[7:8]:
        with guarded(store, query) as answer:
            rows = answer.reader.read_all()
        assert rows.num_rows >= 1
        assert str(answer.freshness).endswith("+ 0 pending segments")


def test_pending_segments_are_in_the_answer(store: Path, small: object) -> None:
    row = dict(small.trial_rows(("ls",))[0], trial_id="ls9")  # type: ignore[attr-defined]
    small.write_trial(store, row)  # type: ignore[attr-defined]
    query = "SELECT count(*) AS n FROM metrics WHERE trial_id = 'ls9'"
    with guarded(store, query) as answer:
        assert answer.reader.read_all().to_pylist() == [{"n": 10}]
    assert answer.freshness.pending_segments == 5
    with guarded(store, query, source="snapshot") as answer:
        assert answer.reader.read_all().to_pylist() == [{"n": 0}]
    with guarded(store, query, source="segments") as answer:
        assert answer.reader.read_all().to_pylist() == [{"n": 10}]
    assert answer.freshness.snapshot_age_s is None


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


def test_the_child_runs_within_its_settings(store: Path) -> None:
    query = "SELECT name, value FROM duckdb_settings()"
    with guarded(store, query) as answer:
        found = {row["name"]: row["value"] for row in answer.reader.read_all().to_pylist()}
    assert found["enable_external_access"] == found["autoload_known_extensions"] == "false"
    assert found["lock_configuration"] == "true"
    with duckdb.connect(":memory:", config={"memory_limit": f"{memory_bytes() // MIB}MiB"}) as con:
        expected = con.execute("SELECT current_setting('memory_limit')").fetchone()
    assert (found["memory_limit"],) == expected
    assert "mtlfleet-sql-" in found["temp_directory"]


def test_the_child_sees_no_secret_of_the_environment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "s3cret-canary")
    query = "SELECT string_agg(name || value, ',') AS s FROM duckdb_settings()"
    with guarded(store, query) as answer:
        assert "s3cret-canary" not in json.dumps(answer.reader.read_all().to_pylist())


FORKED = """
import os, sys
from pathlib import Path
from mtlfleet.errors import FleetError
from mtlfleet.store.child import may_fork
from mtlfleet.store.query import Question, Reader
assert may_fork() and "duckdb" not in sys.modules
os.environ["CANARY_TOKEN"] = "s3cret-canary"
for query in sys.argv[2:]:
    with Reader() as reader:
        try:
            said = reader.ask(Path(sys.argv[1]), Question(query=query, form="csv")).read().decode()
            print(reader.report()["landlock"], said.splitlines()[-1])
        except FleetError as error:
            print(type(error).__name__)
assert "duckdb" not in sys.modules
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a fresh process is started")
def test_a_forked_child_is_guarded_as_a_fresh_one(store: Path) -> None:
    """The way of the command line; in this process, which has loaded DuckDB, every other test starts a fresh Python."""
    trick = "USE memory; DETACH snapshot; COPY (SELECT 1) TO '{root}/results.duckdb' (USE_TMP_FILE false)"
    pivot = "PIVOT (WITH x AS (COPY (SELECT 1 AS a) TO '{root}/p.csv') FROM x) ON a"
    canary = "SELECT count(*) FROM duckdb_settings() WHERE value LIKE '%s3cret-canary%'"
    queries = [words(query, store) for query in (trick, pivot, "FROM '/etc/passwd'", canary)]
    before = hashes(store)
    ran = subprocess.run(
        [sys.executable, "-c", FORKED, str(store), *queries], capture_output=True, text=True, check=True, timeout=120
    )
    said = ran.stdout.splitlines()
    assert hashes(store) == before
    assert said[0] == said[2] == "QueryRefused" and said[1] in ("QueryFailed", "QueryRefused")
    assert said[3] in ("True 0", "False 0")
