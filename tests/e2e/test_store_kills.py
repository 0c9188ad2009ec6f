"""SIGKILL at every moment that matters: no row lost, none twice, none of the wrong attempt; mutants are caught."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from mtlfleet.store import Store, restorables
from mtlfleet.store import ingest as ingest_module
from mtlfleet.store import session as session_module

PROGRAM = Path(__file__).with_name("store_kill_program.py")
TRIALS = ("aaaa", "bbbb")

# (role, point, which passage): every place where a kill could leave something half done.
WORKER_KILLS = (
    ("mid-step", 2), ("half-written", 1), ("before-link", 1), ("after-link", 1), ("half-written", 2),
    ("before-rename", 1), ("after-rename", 1), ("durable-not-acknowledged", 1), ("durable-not-acknowledged", 4),
    ("flushed-before-checkpoint", 1), ("half-checkpoint", 1), ("after-checkpoint-rename", 1), ("mid-step", 7),
)  # fmt: skip
INGESTER_KILLS = (
    ("between-rows-and-ledger", 1), ("before-commit", 1), ("after-commit", 1), ("after-checkpoint", 1),
    ("half-written", 1), ("before-rename", 1), ("after-rename", 1), ("between-rows-and-ledger", 2), ("after-commit", 2),
    ("before-rename", 2),
)  # fmt: skip
Kills = tuple[tuple[str, int], ...]


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("store_kill_program", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(role: str, root: Path, trial: str, mutant: str, point: str = "", nth: int = 1) -> bool:
    """Run a process that kills itself at ``point``. Returns whether it did; else it must succeed."""
    environment = {**os.environ, "MTLFLEET_FAILPOINT": f"{point}:{nth}" if point else ""}
    command = [sys.executable, str(PROGRAM), role, str(root), trial, mutant or "none"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode in (0, -signal.SIGKILL), found.stderr
    return found.returncode != 0


def problems(root: Path) -> list[str]:
    """What is wrong with the answers right now, recomputed from claim files and raw segments by other means."""
    rows = Store(root).rows("SELECT trial_id, attempt, step, value FROM metrics")
    found = [f"twice: {key}" for key, n in Counter((r["trial_id"], r["step"]) for r in rows).items() if n > 1]
    visible = {(r["trial_id"], r["step"]) for r in rows}
    for trial in TRIALS:
        found += [
            f"lost below a checkpoint: {trial} {step}"
            for checkpoint in restorables(root, "kills", trial)[:1]
            for step in range(1, checkpoint.step + 1)
            if (trial, step) not in visible
        ]
    value = program().value
    found += [f"wrong value: {r}" for r in rows if r["value"] != value(r["trial_id"], r["step"])]
    return found + owners_wrong(root, rows)


def owners_wrong(root: Path, rows: list[dict[str, object]]) -> list[str]:
    found = []
    for trial in TRIALS:
        folder = root / "segments" / "study=kills" / f"trial={trial}"
        claims = [json.loads(p.read_text()) for p in folder.glob("attempt=*.json") if not p.name.endswith(".end.json")]
        restored = {c["attempt"]: c["restored_step"] for c in claims}
        for row in rows:
            if row["trial_id"] == trial:
                allowed = [
                    a for a, r in restored.items()
                    if r < row["step"] and all(row["step"] <= s for b, s in restored.items() if b > a)  # type: ignore[operator]
                ]  # fmt: skip
                if row["attempt"] not in allowed:
                    found.append(f"wrong attempt: {row}")
    return found


def loop(
    root: Path, mutant: str, worker: tuple[tuple[str, int], ...], ingester: tuple[tuple[str, int], ...]
) -> tuple[int, list[str]]:
    """Kill and restart until everything is done. Returns (effective kills, problems seen on the way and at the end)."""
    kills, seen = 0, []
    turns = max(len(worker), len(ingester))
    for turn in range(turns):
        trial = TRIALS[turn % len(TRIALS)]
        if turn < len(worker):
            kills += run("work", root, trial, mutant, *worker[turn])
        if turn < len(ingester):
            kills += run("ingest", root, trial, mutant, *ingester[turn])
        if turn % 3 == 0 and (root / "segments").exists():
            seen += problems(root)
    for trial in TRIALS:
        assert not run("work", root, trial, mutant)
    assert not run("ingest", root, "-", mutant)
    seen += problems(root)
    steps = program().STEPS
    for source in (True, False):
        with Store(root).session(use_snapshot=source) as session:
            for table in ("metrics", "step_metrics"):
                count = session.sql(f"SELECT count(*) AS n FROM {table}").to_pylist()[0]["n"]
                if count != steps * len(TRIALS):
                    seen.append(f"{table}: {count} rows, expected {steps * len(TRIALS)} (snapshot {source})")
    return kills, seen


def test_no_kill_loses_or_doubles_a_row(tmp_path: Path) -> None:
    kills, seen = loop(tmp_path, "", WORKER_KILLS, INGESTER_KILLS)
    assert kills >= 20
    assert seen == []


@pytest.mark.parametrize(
    ("mutant", "worker", "ingester"),
    [
        ("ledger-in-its-own-transaction", (("mid-step", 7), ("mid-step", 7)), (("between-rows-and-ledger", 1),) * 2),
        ("no-attempt-window", (("durable-not-acknowledged", 4),) * 4, (("after-commit", 1),)),
        ("checkpoint-before-flush", (("after-checkpoint-rename", 1),) * 2, ()),
    ],
)
def test_the_same_loop_catches_a_broken_store(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mutant: str,
    worker: tuple[tuple[str, int], ...],
    ingester: tuple[tuple[str, int], ...],
) -> None:
    monkeypatch.setattr(ingest_module, "load_segments", ingest_module.load_segments)
    monkeypatch.setattr(ingest_module, "create_views", ingest_module.create_views)
    monkeypatch.setattr(session_module, "create_views", session_module.create_views)
    program().spoil(mutant)
    kills, seen = loop(tmp_path, mutant, worker, ingester)
    assert kills >= 2
    assert seen, f"{mutant} went unnoticed"
