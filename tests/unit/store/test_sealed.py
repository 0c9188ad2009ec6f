"""Above ``max_bytes`` bulk rows of ended trials lie in sealed files: nobody who asks can tell, whatever happens."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mtlfleet.cli import main
from mtlfleet.errors import StoreDamaged
from mtlfleet.store import AttemptWriter, Ingester, Store, durable, ingest, workfile
from mtlfleet.store.canned import CANNED
from mtlfleet.store.doctor import examine, repair
from mtlfleet.store.query import Question, ask
from mtlfleet.store.result_digest import digest

BULK = ("step_metrics", "task_gradients")
ROWS = "SELECT trial_id, attempt, step, value FROM step_metrics ORDER BY ALL"


def publish(root: Path, max_bytes: int | None = 1) -> Path:
    with Ingester(root, max_bytes=max_bytes) as ingester:
        ingester.run_once()
        return ingester.publish()


def listed(root: Path, query: str = "SELECT path FROM sealed ORDER BY ALL") -> list[Any]:
    """What the published file says by itself."""
    with duckdb.connect(str(root / "results.duckdb"), read_only=True) as con:
        return [row[0] for row in con.execute(query).fetchall()]


def unsealed(root: Path) -> int:
    return int(listed(root, "SELECT count(*) FROM unsealed_step_metrics_all")[0])


def answers(root: Path, **how: Any) -> dict[str, Any]:
    """Everything that can be asked about results, as text, so that NaN equals NaN."""
    store = Store(root)
    found: dict[str, Any] = {"digest": digest(store, "s", **how)}
    with store.session(**how) as session:
        queries = {name: query.sql for name, query in CANNED.items() if name not in ("health", "names")}
        queries |= {table: f"SELECT * FROM {table} ORDER BY ALL" for table in (*BULK, "task_gradient_rows")}
        return found | {name: list(map(repr, session.sql(q).to_pylist())) for name, q in queries.items()}


def guarded(root: Path, query: str, source: Literal["live", "snapshot", "segments"]) -> str:
    out = io.BytesIO()
    ask(root, Question(query, form="csv", source=source), out)
    return out.getvalue().decode()


def attempt(root: Path, trial: str, *steps: int, restored: int = 0) -> AttemptWriter:
    """An attempt that is still running; each row's value says which attempt it is of."""
    writer = AttemptWriter.claim(root, "s", trial, restored_step=restored, restored_checkpoint=None, world_size=1)
    for step in steps:
        writer.step_metric(step, "a", "loss", float(writer.attempt))
    writer.flush()
    return writer


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A trial that has ended and one that runs."""
    attempt(tmp_path, "over", 1, 2, 3).close("done")
    attempt(tmp_path, "live", 1, 2).abandon()
    return tmp_path


def test_the_answers_are_those_of_a_store_without_sealed_files(make_study: Callable[..., Path], tmp_path: Path) -> None:
    root = make_study()
    publish(root, None)
    assert listed(root) == []
    expected = answers(root)
    publish(root)
    assert len(listed(root)) == 2 * 8 and unsealed(root) == 0
    assert answers(root) == expected
    for source in ("live", "snapshot"):
        assert guarded(root, "SELECT count(*) AS n FROM step_metrics", source) == "n\n24\n"
    assert examine(root).problems == ()
    whole = tmp_path / "whole.duckdb"  # an export is one file
    found = CliRunner().invoke(main, ["export", str(root), "--to", "duckdb", "-o", str(whole)], catch_exceptions=False)
    assert found.exit_code == 0
    with duckdb.connect(str(whole), read_only=True) as con:
        assert con.sql("SELECT count(*), (FROM task_gradients SELECT count(*)) FROM step_metrics").fetchall() == [
            (24, 8)
        ]


def test_only_ended_trials_are_sealed_and_what_comes_later_is_seen_at_once(two: Path) -> None:
    publish(two)
    (first,) = listed(two)
    assert pq.read_table(two / first, partitioning=None)["trial_id"].to_pylist() == ["over"] * 3 and unsealed(two) == 2
    attempt(two, "over", 3, 4, restored=2).abandon()  # pending, and it takes step 3 from what is sealed
    rows = [
        {"trial_id": "live", "attempt": 1, "step": 1, "value": 1.0},
        {"trial_id": "live", "attempt": 1, "step": 2, "value": 1.0},
        {"trial_id": "over", "attempt": 1, "step": 1, "value": 1.0},
        {"trial_id": "over", "attempt": 1, "step": 2, "value": 1.0},
        {"trial_id": "over", "attempt": 2, "step": 3, "value": 2.0},
        {"trial_id": "over", "attempt": 2, "step": 4, "value": 2.0},
    ]
    assert Store(two).rows(ROWS) == rows
    publish(two)
    assert listed(two) == [first] and unsealed(two) == 4  # it runs again
    assert Store(two).rows(ROWS) == rows
    attempt(two, "over", 5, restored=4).close("done")
    publish(two)
    (second,) = listed(two)
    assert second != first and unsealed(two) == 2
    assert Store(two).rows(ROWS) == [*rows, {"trial_id": "over", "attempt": 3, "step": 5, "value": 3.0}]
    assert examine(two).problems == ()


def test_a_file_is_not_made_anew_for_a_small_part(two: Path) -> None:
    attempt(two, "live", *range(3, 2_000), restored=2).abandon()
    publish(two)
    assert listed(two) == [] and unsealed(two) == 3 + 1_999


@pytest.mark.parametrize("point", ["sealed", "half-relieved", "relieved", "half-copied"])
def test_an_ingester_that_dies_while_sealing_loses_and_doubles_nothing(
    two: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(name: str) -> None:
        if name == point:
            raise Died

    expected = Store(two).rows(ROWS)
    for module in (ingest, workfile):
        monkeypatch.setattr(module, "failpoint", die)
    with pytest.raises(Died):
        publish(two)
    monkeypatch.undo()
    assert Store(two).rows(ROWS) == expected
    publish(two)
    assert Store(two).rows(ROWS) == expected and len(listed(two)) == 1 and unsealed(two) == 2
    assert [p.name for p in two.glob(".*.new*")] == []


def test_a_full_disk_while_sealing_leaves_a_usable_ingester(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, write: object) -> Path:
        del write
        raise OSError(28, "No space left on device", str(path))

    with Ingester(two, max_bytes=1) as ingester:
        ingester.max_bytes = None
        ingester.run_once()
        ingester.max_bytes = 1
        monkeypatch.setattr(durable, "_temporary", full)
        with pytest.raises(OSError, match="No space"):
            ingester.publish()
        monkeypatch.undo()
        ingester.publish()
    assert len(listed(two)) == 1 and len(Store(two).rows(ROWS)) == 5


def test_a_damaged_or_lost_sealed_file_is_told_and_made_anew(two: Path) -> None:
    publish(two)
    (path,) = listed(two)
    whole = (two / path).read_bytes()
    (two / path).chmod(0o644)
    (two / path).write_bytes(whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:])
    assert [(p.kind, p.path, p.trial) for p in examine(two).problems] == [("sealed", path, None)]
    assert repair(two, examine(two)) == ([], [])
    publish(two)
    assert listed(two) == [path] and (two / path).read_bytes() == whole

    (two / path).unlink()
    with pytest.raises(StoreDamaged, match="is not there"):
        Store(two).rows(ROWS)
    with Ingester(two, max_bytes=1) as ingester:  # whose private file names it too
        ingester.run_once()
        ingester.publish()
    assert len(Store(two).rows(ROWS)) == 5 and listed(two) == [path]


def test_only_sealed_files_that_nothing_names_go_and_only_after_a_day(two: Path) -> None:
    def collected() -> list[str]:
        found = CliRunner().invoke(main, ["gc", str(two), "--json"], catch_exceptions=False)
        return [Path(w["path"]).relative_to(two).as_posix() for w in json.loads(found.stdout)["deleted"]]

    publish(two)
    (first,) = listed(two)
    attempt(two, "over", 5, restored=4).close("done")
    publish(two)
    (second,) = listed(two)
    assert collected() == []
    for path in (first, second):
        os.utime(two / path, (0, 0))
    assert collected() == [first]
    assert (two / second).exists() and not (two / first).exists()


def test_a_folder_whose_name_is_a_list_to_duckdb_is_sealed_and_read_like_any(tmp_path: Path) -> None:
    """And so is one that was made elsewhere and then moved."""
    here, moved, made = tmp_path / "here", tmp_path / "a,b", tmp_path / "it's, made [1]"
    attempt(here, "over", 1, 2).close("done")
    shutil.copytree(here, made)
    publish(here)
    here.rename(moved)
    publish(made)
    for root in (moved, made):
        assert len(listed(root)) == 1 and unsealed(root) == 0 and len(Store(root).rows(ROWS)) == 2
    assert guarded(made, "SELECT count(*) AS n FROM step_metrics", "snapshot") == "n\n2\n"
    attempt(made, "over", 3, restored=2).abandon()  # pending beside what is sealed
    assert len(Store(made).rows(ROWS)) == 3
    attempt(made, "over", 3, restored=2).close("done")
    publish(made)  # and sealed once more, from what was sealed
    assert len(listed(made)) == 1 and unsealed(made) == 0 and examine(made).problems == ()
    assert [row["attempt"] for row in Store(made).rows(ROWS)] == [1, 1, 3]
