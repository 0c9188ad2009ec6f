"""`mtlfleet launch` on real Ray with two-rank gangs: to a verdict, again for nothing, through kills and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fleet
import kills

TRIALS = 8 + 8  # two configurations and two final seeds of four cells (single-task training has one per task)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An undisturbed study and its digest."""
    study = fleet.write(tmp_path_factory.mktemp("undisturbed"))
    done = fleet.run("launch", study)
    assert done.returncode == 0, done.stdout + done.stderr
    return study, fleet.run("digest", study).stdout.split()[0]


def rows(study: Path, query: str) -> list[dict[str, object]]:
    done = fleet.run("sql", study, query, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return list(found if isinstance(found, list) else found["rows"])


def test_a_launch_ends_in_a_verdict_a_database_and_a_report(finished: tuple[Path, str]) -> None:
    study, _ = finished
    root = study.parent / "runs" / "tiny"
    assert (root / "results.duckdb").exists()
    assert (root / "report.html").stat().st_size > 10_000
    assert not (root / ".tune").exists() or not any((root / ".tune").iterdir())
    counts = rows(study, "select state, count(*) as n from trial_summary group by state")
    assert counts == [{"state": "done", "n": TRIALS}]
    (verdict,) = rows(study, "select claim_id, verdict from verdicts")
    assert verdict["claim_id"] == "pcgrad_beats_sum"
    assert verdict["verdict"] != "invalid"
    board = rows(study, "select method, avg(delta_m_pct) as dm from delta_m group by method order by method")
    assert [row["method"] for row in board] == ["ls", "pcgrad", "stl"]


def test_test_is_read_once_and_by_final_trials_only(finished: tuple[Path, str]) -> None:
    study, _ = finished
    found = rows(
        study,
        "select t.phase, m.split, count(*) as n, count(distinct m.trial_id) as trials, "
        "count(distinct (m.trial_id, m.task)) as reads "
        "from metrics m join trials t using (study_id, trial_id) where m.split = 'test' group by all",
    )
    assert [(row["phase"], row["trials"]) for row in found] == [("final", 8)]
    assert found[0]["n"] == found[0]["reads"]


def test_each_rank_left_a_log(finished: tuple[Path, str]) -> None:
    study, _ = finished
    trial = rows(study, "select trial_id from trials order by trial_id limit 1")[0]["trial_id"]
    for rank in (0, 1):
        said = fleet.run("logs", str(trial), "--rank", str(rank), "--study", study)
        assert said.returncode == 0, said.stderr
        assert "begins at step 0" in said.stdout


def test_doctor_finds_a_launched_store_sound(finished: tuple[Path, str]) -> None:
    study, _ = finished
    found = fleet.run("doctor", study, "--json")
    assert found.returncode == 0, found.stdout + found.stderr
    report = json.loads(found.stdout)
    assert report["problems"] == [] and report["segments"] > 0 and report["rows"] > 0


def test_launching_again_runs_nothing(finished: tuple[Path, str]) -> None:
    study, digest = finished
    again = fleet.run("launch", study, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["ran"] == 0
    assert "starting Ray" not in again.stderr
    assert fleet.run("digest", study).stdout.split()[0] == digest


def test_a_wider_study_runs_only_its_new_cells(finished: tuple[Path, str], tmp_path: Path) -> None:
    study, _ = finished
    wider = fleet.write(
        tmp_path,
        fleet.STUDY,
        ("seeds: [1, 2]", "seeds: [1, 2, 3]"),
        ("claims:", f"storage: {{root: {study.parent}/runs/tiny}}\nclaims:"),
    )
    plan = fleet.run("launch", wider, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "4 trials would run now" in plan.stdout


def finished_trials(store: Path) -> int:
    return len({end.parent for end in store.glob("segments/study=tiny/trial=*/attempt=*.end.json")})


def kill_each(running: subprocess.Popen[str], store: Path, every: int) -> list[str]:
    """SIGKILL a rank, the gang's owner and the driver, each after ``every`` more finished trials; who was killed."""
    killed: list[str] = []
    deadline = time.monotonic() + 300
    while running.poll() is None and len(killed) < len(kills.TARGETS) and time.monotonic() < deadline:
        time.sleep(0.05)
        target = kills.TARGETS[len(killed)]
        if finished_trials(store) >= every * (len(killed) + 1) and (chosen := kills.victims(running.pid, target)):
            os.kill(chosen[-1], signal.SIGKILL)
            killed.append(target)
    return killed


def interrupt(study: Path, store: Path) -> None:
    """A launch that answers SQL while it runs and leaves a resumable study on Ctrl-C."""
    words = fleet.command("launch", study)
    running = subprocess.Popen(
        words, env=fleet.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    before, deadline = finished_trials(store), time.monotonic() + 120
    while time.monotonic() < deadline and finished_trials(store) == before:
        time.sleep(0.05)
    live = fleet.run("sql", study, "select count(*) as n from metrics where split = 'val'", "--format", "csv")
    assert live.returncode == 0, live.stderr
    assert int(live.stdout.split()[1]) > 0, "SQL answers while the study runs"
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "nothing is lost" in said
    assert "Traceback" not in said


def test_kills_and_ctrl_c_leave_no_trace_in_the_results(finished: tuple[Path, str], tmp_path: Path) -> None:
    study, store = fleet.write(tmp_path), tmp_path / "runs" / "tiny"
    words = fleet.command("launch", study, "--json", "--progress", "plain")
    running = subprocess.Popen(words, env=fleet.environment(), stdout=subprocess.PIPE, text=True)
    assert kill_each(running, store, every=3) == list(kills.TARGETS)
    said, _ = running.communicate(timeout=200)
    assert said == "", "stdout is for the answer, whatever Ray has to say"
    interrupt(study, store)
    states = json.loads(fleet.run("status", study, "--json").stdout)
    assert states["schema"].startswith("mtlfleet/status/")
    again = fleet.run("launch", study, "--json")
    assert again.returncode == 0, again.stderr
    assert 0 < json.loads(again.stdout)["ran"] < TRIALS
    assert fleet.run("digest", study).stdout.split()[0] == finished[1]
