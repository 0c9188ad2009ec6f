"""The reading commands, from words to output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from mtlfleet.cli import digest, export, logs, show, sql, status, why
from mtlfleet.errors import EnvironmentProblem, QueryFailed, UsageError
from mtlfleet.store import AttemptWriter, new_log


def run(module: ModuleType, *words: object, text: str | None = None) -> Result:
    return CliRunner().invoke(module.command, [str(w) for w in words], catch_exceptions=False, input=text)


@pytest.fixture
def store(make_study: Callable[..., Path]) -> Path:
    root = make_study(skip=("ls1",))
    writer = AttemptWriter.claim(root, "s", "ls1", restored_step=0, restored_checkpoint=None, world_size=1)
    writer.close("oom", "\x1b[31mout of memory\x1b[0m", 3)
    path = new_log(root, "ls1", 1, 0)
    path.write_text("one\ntwo \x1b]52;c;aGk=\x07three\n")
    return root


def test_sql_takes_words_a_file_or_standard_input(store: Path, tmp_path: Path) -> None:
    query = "SELECT count(*) AS n FROM trials WHERE seed = $seed"
    (tmp_path / "q.sql").write_text(query)
    for words, text in (((query,), None), (("-f", tmp_path / "q.sql"), None), (("-",), query)):
        found = run(sql, store, *words, "--param", "seed=1", text=text)
        assert found.stdout == "n\n4\n"  # csv: not a terminal
        assert "pending segments" in found.stderr


def test_sql_writes_the_output_whole_or_not_at_all(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    run(sql, store, "FROM metrics", "-o", out)
    assert pq.ParquetFile(out).metadata.num_rows > 0
    with pytest.raises(QueryFailed):
        run(sql, store, "SELECT error('late') FROM metrics", "-o", tmp_path / "b.csv")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.parquet"]


def test_sql_knows_canned_queries(store: Path) -> None:
    for name in ("leaderboard", "progress", "verdicts", "failures"):
        assert json.loads(run(sql, store, f"@{name}", "--format", "json").stdout) is not None
    with pytest.raises(UsageError, match="@leaderbord") as caught:
        run(sql, store, "@leaderbord")
    assert "@leaderboard" in str(caught.value)


def test_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EnvironmentProblem, match="is not a results store"):
        run(sql, tmp_path / "empty", "SELECT 1")
    with pytest.raises(UsageError, match="no such study"):
        run(status, tmp_path / "no.yaml")


def test_status_counts_and_groups_failures(store: Path) -> None:
    report = json.loads(run(status, store, "--json").stdout)
    assert report["states"] == {
        "done": 7, "diverged": 0, "failed": 0, "oom": 1, "lost": 0, "interrupted": 0, "running": 0, "missing": 0,
    }  # fmt: skip
    assert [(f["state"], f["reason"], f["example"]) for f in report["failures"]] == [("oom", "out of memory", "ls1")]
    text = run(status, store, "--failures").stdout
    assert "1 x oom: out of memory" in text and "\x1b" not in text


def test_show_logs_and_why_find_a_trial_by_prefix(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)
    shown = json.loads(run(show, "pcgrad0", "--json").stdout)
    assert shown["summary"]["state"] == "done" and len(shown["results"]) == 10
    assert "\x1b" not in run(show, "pcgrad0").stdout
    assert run(logs, "ls1").stdout == "one\ntwo three\n"
    assert run(logs, "ls1", "--tail", "1").stdout == "two three\n"
    text = run(why, "ls1").stdout
    assert "out of memory" in text and "resume STUDY --failed" in text and "| two three" in text and "\x1b" not in text
    with pytest.raises(UsageError, match="4 trials start with `stl`"):
        run(show, "stl")
    with pytest.raises(UsageError, match="no trial's id"):
        run(logs, "zzz")


def test_digest_is_the_same_from_segments(store: Path) -> None:
    assert run(digest, store).stdout == run(digest, store, "--segments").stdout
    assert len(run(digest, store).stdout.strip()) == 64


def test_export_makes_files_that_open(store: Path, tmp_path: Path) -> None:
    for kind in ("parquet", "csv"):
        run(export, store, "--to", kind, "-o", tmp_path / kind, "--table", "trials", "--table", "leaderboard")
        assert {p.stem for p in (tmp_path / kind).iterdir()} == {"trials", "leaderboard"}
    assert pq.read_table(tmp_path / "parquet" / "trials.parquet").num_rows == 8
    run(export, store, "--to", "duckdb", "-o", tmp_path / "x.duckdb")
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM trial_summary WHERE state = 'done'").fetchone() == (7,)
    run(export, store, "--to", "latex", "-o", tmp_path / "x.tex")
    assert "\\begin{tabular}" in (tmp_path / "x.tex").read_text()
    with pytest.raises(UsageError, match="exists"):
        run(export, store, "--to", "markdown", "-o", tmp_path / "x.tex")


def test_asking_imports_neither_torch_nor_ray(store: Path) -> None:
    program = (
        "import sys; from mtlfleet.cli import sql, status, digest\n"
        "from mtlfleet.store import AttemptWriter, open_store\n"
        f"open_store({str(store)!r}).sql('SELECT 1')\n"
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"
