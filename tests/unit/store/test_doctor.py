"""Damage of every kind is found, named, and put right as far as it can be."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mtlfleet.cli import doctor as command
from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.launch.drain import LOCK
from mtlfleet.store import AttemptWriter, Ingester, open_store, trial_state
from mtlfleet.store.doctor import examine, repair

TRIAL = "segments/study=s/trial=ls0"
METRICS = f"{TRIAL}/attempt=1/metrics-000001.parquet"


@pytest.fixture
def store(make_study: Callable[..., Path]) -> Path:
    root = make_study()
    with Ingester(root) as ingester:
        ingester.run_once()
    return root


def writable(path: Path) -> Path:
    path.chmod(0o644)
    return path


def cut(root: Path) -> None:
    path = writable(root / METRICS)
    path.write_bytes(path.read_bytes()[:-20])


def renumber(root: Path) -> None:
    (root / METRICS).rename(root / METRICS.replace("000001", "000002"))


def repeat(root: Path) -> None:
    shutil.copy(root / METRICS, root / METRICS.replace("000001", "000002"))


def swap(root: Path) -> None:
    shutil.copy(root / METRICS.replace("ls0", "ls1"), writable(root / METRICS))


def unclaim(root: Path) -> None:
    (root / TRIAL / "attempt=1.json").unlink()


def scramble_claim(root: Path) -> None:
    writable(root / TRIAL / "attempt=1.json").write_text("{")


def claim_more(root: Path) -> None:
    path = writable(root / TRIAL / "attempt=1.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "restored_step": 1_000_000}))


def lose(root: Path) -> None:
    (root / METRICS).unlink()


DAMAGES: dict[Callable[[Path], None], set[str]] = {
    cut: {"segment"},
    renumber: {"gap", "lost segment"},
    repeat: {"duplicate"},
    swap: {"segment"},
    unclaim: {"no claim"},
    scramble_claim: {"claim"},
    claim_more: {"segment"},
    lose: {"lost segment"},
}


def test_the_chosen_checkpoints_row_beside_its_evaluation_is_no_duplicate(store: Path) -> None:
    """As every launch writes them: the evaluation at a step, and later the same step as the one validation chose."""
    writer = AttemptWriter.claim(store, "s", "both", restored_step=0, restored_checkpoint=None, world_size=1)
    for final in (False, True):
        writer.metric(10, 1.0, "val", "a", "accuracy", 0.5, 100, final)
    writer.close("done", "", 10)
    assert examine(store).problems == ()


def test_a_sound_store_has_no_problem(store: Path) -> None:
    found = examine(store)
    assert found.problems == ()
    assert (found.segments, found.claims, found.documents) == (40, 8, 4)
    assert found.rows == sum(pq.read_metadata(p).num_rows for p in (store / "segments").rglob("*.parquet"))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damage_is_found_and_its_trial_runs_again(store: Path, damage: Callable[[Path], None]) -> None:
    before = open_store(store).rows("SELECT * FROM metrics WHERE trial_id <> 'ls0' ORDER BY ALL")
    damage(store)
    found = examine(store)
    assert {p.kind for p in found.problems} == DAMAGES[damage]
    assert {p.trial for p in found.problems} == {("s", "ls0")}
    moved, left = repair(store, found)
    assert left == []
    assert trial_state(store, "s", "ls0") == "missing"  # what the next launch runs
    assert [key.rpartition("/")[2] for key in moved] == ["trial=ls0"]
    assert (store / moved[0] / "attempt=1.json").exists() is (damage is not unclaim)
    assert open_store(store).rows("SELECT * FROM metrics ORDER BY ALL") == before


@pytest.mark.parametrize("seen_in", ["claims", "ledger"])
def test_the_numbers_of_what_was_put_aside_are_not_given_again(tmp_path: Path, seen_in: str) -> None:
    """An attempt of a quarantined trial still runs elsewhere: neither its rows nor its end pass for the new one's."""

    def claim() -> AttemptWriter:
        return AttemptWriter.claim(tmp_path, "s", "ls0", restored_step=0, restored_checkpoint=None, world_size=1)

    def measure(writer: AttemptWriter, value: float) -> None:
        writer.metric(1, 0.5, "val", "a", "accuracy", value)
        writer.flush()

    zombie = claim()
    measure(zombie, 0.25)
    with Ingester(tmp_path) as ingester:
        ingester.run_once()
    if seen_in == "claims":
        cut(tmp_path)
    else:
        shutil.rmtree(tmp_path / TRIAL)
    moved, left = repair(tmp_path, examine(tmp_path))
    assert left == [] and len(moved) == (seen_in == "claims")
    measure(zombie, 0.25)
    assert trial_state(tmp_path, "s", "ls0") == "missing"
    fresh = claim()
    zombie.close("done", last_step=1)
    assert trial_state(tmp_path, "s", "ls0") == "running"
    measure(fresh, 0.75)
    fresh.close("done", last_step=1)
    assert (fresh.attempt, claim().attempt) == (2, 3)
    assert examine(tmp_path).problems == ()
    for _ in range(2):  # live, and folded in
        assert open_store(tmp_path).rows("SELECT attempt, value FROM metrics_all") == [{"attempt": 2, "value": 0.75}]
        with Ingester(tmp_path) as ingester:
            ingester.run_once()


def test_another_machines_ingester_forgets_what_was_put_aside(store: Path) -> None:
    """Its private file still holds the trial, and would publish it beside the attempt that ran again."""
    other = store / ".work-other.duckdb"
    with Ingester(store, work=other) as ingester:
        ingester.run_once()
    cut(store)
    assert repair(store, examine(store))[1] == []
    again = AttemptWriter.claim(store, "s", "ls0", restored_step=0, restored_checkpoint=None, world_size=1)
    again.metric(1, 0.5, "val", "a", "accuracy", 0.75)
    again.close("done", last_step=1)
    with Ingester(store, work=other) as ingester:
        ingester.run_once()
        ingester.publish()
    assert examine(store).problems == ()
    found = open_store(store).rows("SELECT attempt, value FROM metrics_all WHERE trial_id = 'ls0'")
    assert found == [{"attempt": 2, "value": 0.75}]


def test_every_flipped_bit_is_found(store: Path) -> None:
    """One byte in 61 stands for all: header, pages, stamp and footer."""
    path = writable(store / METRICS)
    whole = path.read_bytes()
    for at in range(0, len(whole), 61):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        assert [p.kind for p in examine(store).problems if p.path == METRICS] == ["segment"], f"byte {at}"
    path.write_bytes(whole)
    assert examine(store).problems == ()


def test_a_published_file_that_lies_is_made_anew(store: Path) -> None:
    path = writable(store / "results.duckdb")
    with duckdb.connect(str(path)) as con:
        con.execute("DELETE FROM metrics_all WHERE trial_id = 'ls0'")
        con.execute("UPDATE segments SET rows = rows + 1 WHERE trial_id = 'ls1' AND table_name = 'events'")
    found = examine(store)
    assert {p.kind for p in found.problems} == {"published rows"}
    assert {p.trial for p in found.problems} == {None}
    assert repair(store, found) == ([], [])
    assert open_store(store).rows("SELECT count(*) AS n FROM metrics WHERE trial_id = 'ls0'") == [{"n": 10}]


def test_a_published_file_that_cannot_be_opened_is_made_anew(store: Path) -> None:
    writable(store / "results.duckdb").write_bytes(os.urandom(5000))
    found = examine(store)
    assert [p.kind for p in found.problems] == ["published file"]
    assert repair(store, found) == ([], [])


def test_the_command_says_all_that_and_exits_accordingly(store: Path) -> None:
    def run(*words: object) -> tuple[str, int]:
        found = CliRunner().invoke(command.command, [str(store), *map(str, words)])
        code = found.exception.exit_code if isinstance(found.exception, StoreDamaged) else found.exit_code
        return found.stdout, code

    assert run() == ("read 40 segments with 108 rows, 8 attempts, 4 documents\nno problem found\n", 0)
    cut(store)
    text, code = run()
    assert code == 7 and METRICS in text
    text, code = run("--repair")
    assert code == 0 and "1 trial will run again" in text and "quarantine" in text
    report = json.loads(run("--json")[0])
    assert report["schema"] == "mtlfleet/doctor-store/1" and report["problems"] == []


def test_a_registration_is_never_moved(store: Path) -> None:
    folder = store / "claims/study=s"
    folder.mkdir(parents=True)
    (folder / "c@1.json").write_text("{}")
    found = examine(store)
    assert [p.kind for p in found.problems] == ["registration"]
    moved, left = repair(store, found)
    assert moved == [] and [p.kind for p in left] == ["registration"]
    assert (folder / "c@1.json").read_text() == "{}"


def test_nothing_is_repaired_under_a_running_launch(store: Path) -> None:
    import fcntl

    cut(store)
    with (store / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentProblem, match="a launch works on"):
            CliRunner().invoke(command.command, [str(store), "--repair"], catch_exceptions=False)
    assert (store / METRICS).exists()


def test_a_registration_without_its_keys_is_a_damaged_store(store: Path) -> None:
    path = store / "claims" / "study=s" / "claim@1.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"claim_id": "claim", "number": 1, "registered_at": "2026-01-01T00:00:00+00:00"}')
    with pytest.raises(StoreDamaged, match=r"claim@1\.json is not a registration"):
        open_store(store).sql("SELECT 1")
