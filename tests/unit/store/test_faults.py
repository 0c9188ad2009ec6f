"""Damage and full disks: seen, named, never a wrong number; and what was not acknowledged is written later."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import duckdb
import pytest

from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.store import AttemptWriter, Ingester, Store, durable, stamp, trial_state
from mtlfleet.store.checks import Problem
from mtlfleet.store.doctor import examine, repair
from mtlfleet.store.layout import list_segments


def check(root: Path) -> list[Problem]:
    return list(examine(root).problems)


def claim(root: Path, trial: str = "t", step: int = 0) -> AttemptWriter:
    return AttemptWriter.claim(root, "s", trial, restored_step=step, restored_checkpoint=None, world_size=1)


def filled(root: Path, trial: str = "t", steps: int = 5) -> Path:
    """A finished trial with one segment; returns its path."""
    writer = claim(root, trial)
    for step in range(1, steps + 1):
        writer.metric(step, 0.5, "val", "a", "accuracy", step / 7)
    writer.close("done", last_step=steps)
    return next((root / f"segments/study=s/trial={trial}").rglob("*.parquet"))


def test_a_segment_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = filled(tmp_path).read_bytes()
    assert stamp.verify(whole)
    for size in range(len(whole)):
        with pytest.raises(stamp.Damaged):
            stamp.verify(whole[:size])


def test_a_flip_of_any_bit_is_refused(tmp_path: Path) -> None:
    whole = bytearray(filled(tmp_path).read_bytes())
    for at in range(len(whole)):
        for bit in range(8):
            whole[at] ^= 1 << bit
            with pytest.raises(stamp.Damaged):
                stamp.verify(bytes(whole))
            whole[at] ^= 1 << bit
    assert stamp.verify(bytes(whole))


def test_what_stands_before_the_stamp_is_what_the_footer_says(tmp_path: Path) -> None:
    path = filled(tmp_path)
    raw, seen = path.read_bytes(), stamp.look(path)
    assert (seen.rows, seen.min_step, seen.max_step, seen.schema_version) == (5, 1, 5, 1)
    assert {**stamp._read_footer(raw), "columns": seen.columns} == stamp._told(raw)
    footer = raw[-8 - int.from_bytes(raw[-8:-4], "little") :]
    old = tmp_path / "old.parquet"  # as files were before anything stood there
    body = raw[: raw.rindex(b'{"rows"')]
    old.write_bytes(body + stamp.MAGIC + hashlib.sha256(body + footer).digest() + footer)
    before = stamp.look(old)
    assert before.columns == ""
    assert before[:1] + before[2:3] + before[4:6] == seen[:1] + seen[2:3] + seen[4:6]


def test_duckdb_alone_would_have_read_a_wrong_number(tmp_path: Path) -> None:
    """Why the stamp is there: some flips are read without a complaint, as other values."""
    path = filled(tmp_path)
    whole = path.read_bytes()
    question = f"SELECT step, value FROM read_parquet('{tmp_path}/x.parquet') ORDER BY ALL"
    (tmp_path / "x.parquet").write_bytes(whole)
    before = duckdb.execute(question).fetchall()
    wrong = 0
    for at in range(4, len(whole) // 2, 3):
        (tmp_path / "x.parquet").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            wrong += duckdb.execute(question).fetchall() != before
        except duckdb.Error:
            continue
    assert wrong > 0


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_told_by_everyone_and_repaired_by_running_again(tmp_path: Path, damage: str) -> None:
    good, bad = filled(tmp_path, "good"), filled(tmp_path, "bad")
    writer = claim(tmp_path, "bad2")
    for step in (1, 2):
        writer.metric(step, 0.5, "val", "a", "accuracy", 0.5)
        writer.flush()
    writer.close("done", last_step=2)
    assert check(tmp_path) == []
    if damage == "gone":
        bad = tmp_path / "segments/study=s/trial=bad2/attempt=1/metrics-000001.parquet"
        bad.unlink()
    else:
        bad.chmod(0o644)
        content = bytearray(bad.read_bytes())
        content[len(content) // 2] ^= 8
        bad.write_bytes(content if damage == "flip" else content[:-100])
        with pytest.raises(StoreDamaged, match="1 segment cannot be read"):
            Store(tmp_path).sql("SELECT count(*) FROM metrics")
        with Ingester(tmp_path) as ingester, pytest.raises(StoreDamaged) as caught:
            ingester.run_once()
        assert str(bad) in caught.value.notes
        with duckdb.connect(str(tmp_path / "results.duckdb"), read_only=True) as con:  # the others came in
            assert con.execute("SELECT trial_id, count(*) FROM metrics GROUP BY 1 ORDER BY 1").fetchall() == [
                ("bad2", 2), ("good", 5),
            ]  # fmt: skip
    trial = bad.parts[-3].partition("=")[2]
    found = check(tmp_path)
    assert [f.trial for f in found] == [("s", trial)]
    repair(tmp_path, examine(tmp_path))
    assert check(tmp_path) == []
    assert trial_state(tmp_path, "s", trial) == "missing" and trial_state(tmp_path, "s", "good") == "done"
    assert Store(tmp_path).rows("SELECT count(*) AS n FROM metrics WHERE trial_id = ?", [trial])[0]["n"] == 0
    assert Store(tmp_path).rows("SELECT count(*) AS n FROM metrics WHERE trial_id = 'good'")[0]["n"] == 5
    assert good.exists() and len(list((tmp_path / "quarantine").rglob("*.parquet"))) == 1
    again = claim(tmp_path, trial)  # what launch does
    again.metric(1, 0.1, "val", "a", "accuracy", 0.9)
    again.close("done")
    rows = Store(tmp_path).rows("SELECT attempt, value FROM metrics WHERE trial_id = ?", [trial])
    assert rows == [{"attempt": 2, "value": 0.9}]  # what was put aside keeps its number to itself


def test_check_sees_what_contradicts_itself(make_study: Callable[..., Path], small: ModuleType) -> None:
    root = make_study()
    with Ingester(root) as ingester:
        ingester.run_once()
        ingester._con.execute("INSERT INTO metrics_all SELECT * FROM metrics_all LIMIT 1")
        ingester.publish()
    assert {f.kind for f in check(root)} == {"published rows"}
    repair(root, examine(root))
    assert check(root) == []
    (root / "segments/study=s/trial=ls0/attempt=1.json").rename(root / "gone")
    assert {f.kind for f in check(root)} == {"no claim"}
    with Store(root).session(use_snapshot=False) as session:  # the snapshot has had its claim in hand
        assert session.sql("SELECT count(*) AS n FROM metrics WHERE trial_id = 'ls0'").to_pylist() == [{"n": 0}]
    (root / "gone").rename(root / "segments/study=s/trial=ls0/attempt=1.json")
    end = root / "segments/study=s/trial=ls0/attempt=1.end.json"
    end.write_text("{")
    assert {f.kind for f in check(root)} == {"claim"}
    repair(root, examine(root))
    assert check(root) == [] and trial_state(root, "s", "ls0") == "missing"


class Disk:
    """The calls that write, of which the n-th finds the disk full."""

    def __init__(self, fail_at: int) -> None:
        self.calls, self.fail_at = 0, fail_at

    def strike(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Disk]]:
    """Makes the n-th mkdir, open, write, fsync, link or rename of the store fail."""

    def make(fail_at: int) -> Disk:
        disk = Disk(fail_at)

        def struck(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                disk.strike()
                return real(*args, **kwargs)

            return call

        monkeypatch.undo()
        names = {n: getattr(os, n) for n in dir(os) if not n.startswith("__")}
        names |= {n: struck(getattr(os, n)) for n in ("fsync", "link", "open")}
        monkeypatch.setattr(durable, "os", SimpleNamespace(**names))
        for name in ("replace", "mkdir"):
            monkeypatch.setattr(Path, name, struck(getattr(Path, name)))
        monkeypatch.setattr(durable, "failpoint", lambda name: disk.strike() if name == "half-written" else None)
        return disk

    yield make


@pytest.mark.slow
def test_a_full_disk_at_each_write_loses_and_doubles_nothing(
    tmp_path: Path, full_at: Callable[[int], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call in turn; between the failure and the second try an ingester looks, and the rows are more by then."""
    number = 0
    while True:
        number += 1
        root = tmp_path / str(number)
        disk = full_at(number)
        writer = None
        step = 0
        while step < 3:
            try:
                writer = writer or claim(root)
                if step == 0:
                    writer.metric(1, 0.5, "val", "a", "accuracy", 1.0)
                    step = 1
                writer.flush()
                if step == 1:
                    writer.metric(2, 0.5, "val", "a", "accuracy", 2.0)
                    step = 2
                writer.close("done", last_step=2)
                step = 3
            except EnvironmentProblem as error:
                assert "No space left" in error.message
                if writer is not None and step == 1:
                    writer.metric(2, 0.5, "val", "a", "accuracy", 2.0)
                    step = 2
                if (root / "segments").exists() and number % 3 == 0:
                    with Ingester(root) as ingester:
                        ingester.run_once()
        reached = disk.calls >= number
        monkeypatch.undo()
        with Ingester(root) as ingester:
            ingester.run_once()
            ingester.publish()
        assert Store(root).rows("SELECT step, value FROM metrics ORDER BY ALL") == [
            {"step": 1, "value": 1.0}, {"step": 2, "value": 2.0},
        ]  # fmt: skip
        assert not list(root.rglob("*.tmp-*"))
        shutil.rmtree(root)
        if not reached:
            break
    assert number > 20


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB; skipped where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_an_ingester_survives_a_full_disk(tiny_disk: Path) -> None:
    root = tiny_disk / "store"
    ballast = tiny_disk / "ballast"
    filled(root, "first", 2000)
    with Ingester(root) as ingester:
        ingester.run_once()
        filled(root, "second", 2000)
        free = os.statvfs(tiny_disk).f_bavail * 4096
        ballast.write_bytes(b"x" * (free - 40_000))
        with pytest.raises(EnvironmentProblem):
            ingester.run_once()
            ingester.publish()
        assert Store(root).rows("SELECT count(*) AS n FROM metrics")[0]["n"] == 4000  # the first file, and pending
        ballast.unlink()
        ingester.run_once()
        ingester.publish()
    assert check(root) == []
    with duckdb.connect(str(root / "results.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM metrics").fetchone() == (4000,)


FOLD = """
import sys
from pathlib import Path
from mtlfleet.store import Ingester
root, private = map(Path, sys.argv[1:])
with Ingester(root, work=private) as ingester:
    while not (root / "over").exists():
        ingester.run_once()
        ingester.publish()
        print("round", flush=True)
    ingester.run_once()
    ingester.publish()
"""


def test_two_ingesters_at_once_only_waste_work(tmp_path: Path) -> None:
    """Two processes, as on two hosts, fold the same segments in and publish over each other."""
    filled(tmp_path, "t0")
    private = [tmp_path / f".work-host{n}.duckdb" for n in range(2)]
    processes = [
        subprocess.Popen([sys.executable, "-c", FOLD, str(tmp_path), str(p)], stdout=subprocess.PIPE, text=True)
        for p in private
    ]
    try:
        for n in range(1, 5):
            filled(tmp_path, f"t{n}")
            for process in processes:  # both are at it: a round of each for every trial, at least
                assert process.stdout is not None and process.stdout.readline() == "round\n"
            rows = Store(tmp_path).rows("SELECT count(*) AS n FROM metrics")[0]["n"]
            assert rows == 5 * (n + 1)
        (tmp_path / "over").touch()
        for process in processes:
            process.communicate(timeout=120)
        assert [process.returncode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert check(tmp_path) == []
    for path in (*private, tmp_path / "results.duckdb"):
        with duckdb.connect(str(path), read_only=True) as con:
            assert con.execute("SELECT count(*) FROM metrics_all").fetchone() == (25,), path
    with Ingester(tmp_path) as third:  # starts from the published copy
        third.run_once()
        third.publish()
    assert Store(tmp_path).rows("SELECT count(*) AS n FROM metrics_all")[0]["n"] == 25


def test_many_writers_and_readers_beside_an_ingester(tmp_path: Path) -> None:
    """64 writers, 16 readers: every answer holds whole flushes, none goes back, the end is complete."""
    problems: list[object] = []
    over = threading.Event()

    def write(n: int) -> None:
        writer = claim(tmp_path, f"t{n:02d}")
        for step in range(1, 7):
            writer.metric(step, 0.0, "val", "a", "accuracy", float(step))
            writer.metric(step, 0.0, "val", "b", "accuracy", float(step))
            if step % 2 == 0:
                writer.flush()
        writer.close("done")

    def read() -> None:
        last = 0
        while not over.is_set():
            found = Store(tmp_path).rows(
                "SELECT count(*) AS n, count(DISTINCT (trial_id, step, task)) AS d FROM metrics"
            )
            if found[0]["n"] != found[0]["d"] or found[0]["n"] % 4 or found[0]["n"] < last:
                problems.append(found)
            last = found[0]["n"]

    filled(tmp_path, "t", 4)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(64)]
    readers = [threading.Thread(target=read) for _ in range(16)]
    for thread in (*writers, *readers):
        thread.start()
    with Ingester(tmp_path) as ingester:
        for n, thread in enumerate(writers):
            thread.join()
            if n % 8 == 7:
                ingester.run_once()
        ingester.publish()
    over.set()
    for thread in readers:
        thread.join()
    assert problems == []
    assert Store(tmp_path).rows("SELECT count(*) AS n FROM metrics")[0]["n"] == 64 * 12 + 4
    assert len(list_segments(tmp_path)) == 64 * 3 + 1


def test_a_long_reader_keeps_its_answer_during_a_hundred_publications(tmp_path: Path) -> None:
    filled(tmp_path, "t0", 50)
    with Ingester(tmp_path) as ingester:
        ingester.publish()
        ingester.run_once()
        ingester.publish()
        with Store(tmp_path).session() as session:
            for n in range(100):
                if n % 10 == 0:
                    filled(tmp_path, f"later{n}")
                    ingester.run_once()
                ingester.publish()
                assert session.sql("SELECT count(*) AS n FROM metrics").to_pylist() == [{"n": 50}]
    assert Store(tmp_path).rows("SELECT count(*) AS n FROM metrics")[0]["n"] == 100
    assert not list(tmp_path.glob(".*tmp-*"))


def test_a_segment_of_a_newer_version_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtlfleet.store.writer.SCHEMA_VERSION", 2)
    filled(tmp_path)
    with pytest.raises(EnvironmentProblem, match="schema version 2"):
        Store(tmp_path).sql("SELECT count(*) FROM metrics")
    with Ingester(tmp_path) as ingester, pytest.raises(EnvironmentProblem, match="schema version 2"):
        ingester.run_once()
