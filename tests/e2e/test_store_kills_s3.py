"""The kill loop over a bucket: SIGKILL before and after every request that matters, then the same questions as for a
folder. Claims are fenced by conditional PUT, checkpoints by their seal, and the ingester's copy may vanish with its
machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mtlfleet.store import Store, ingest, restorables, session, workfile
from mtlfleet.store.attempts import read_claims
from mtlfleet.store.layout import attempts_in
from mtlfleet.store.place import at

PROGRAM = Path(__file__).with_name("store_kill_program.py")
TRIALS = ("aaaa", "bbbb")
Point = tuple[str, int]

# (point, which passage). The n-th before-link is a claim, then an end; before-rename is a segment, a file of a
# checkpoint or a seal; for the ingester first the local copy, then the upload.
WORKER: tuple[Point, ...] = (
    ("before-link", 1), ("after-link", 1), ("before-rename", 1), ("after-rename", 1), ("durable-not-acknowledged", 1),
    ("flushed-before-checkpoint", 1), ("half-checkpoint", 1), ("after-checkpoint-rename", 1), ("mid-step", 7),
    ("before-rename", 4), ("after-rename", 4), ("durable-not-acknowledged", 4), ("half-checkpoint", 2),
    ("after-link", 1), ("mid-step", 3), ("before-rename", 6), ("after-rename", 6), ("before-link", 2),
)  # fmt: skip
INGESTER: tuple[Point, ...] = (
    ("between-rows-and-ledger", 1), ("before-commit", 1), ("after-commit", 1), ("after-checkpoint", 1),
    ("before-rename", 1), ("after-rename", 1), ("before-rename", 2), ("after-rename", 2),
)  # fmt: skip


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("store_kill_program", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(role: str, root: str, trial: str, mutant: str, point: Point | None = None) -> bool:
    """Run a process that kills itself at ``point``. Returns whether it did; else it must succeed."""
    environment = {**os.environ, "MTLFLEET_FAILPOINT": f"{point[0]}:{point[1]}" if point else ""}
    command = [sys.executable, str(PROGRAM), role, root, trial, mutant or "none"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode in (0, -signal.SIGKILL), found.stderr
    return found.returncode != 0


def problems(root: str) -> list[str]:
    """What is wrong with the answers right now, recomputed from the claims in the bucket."""
    rows = Store(root).rows("SELECT trial_id, attempt, step, value FROM metrics")
    found = [f"twice: {key}" for key, n in Counter((r["trial_id"], r["step"]) for r in rows).items() if n > 1]
    visible = {(r["trial_id"], r["step"]) for r in rows}
    value = program().value
    found += [f"wrong value: {r}" for r in rows if r["value"] != value(r["trial_id"], r["step"])]
    for trial in TRIALS:
        for checkpoint in restorables(root, "kills", trial)[:1]:
            steps = range(1, checkpoint.step + 1)
            found += [f"lost below a checkpoint: {trial} {s}" for s in steps if (trial, s) not in visible]
        found += owners_wrong(root, trial, [r for r in rows if r["trial_id"] == trial])
    return found


def owners_wrong(root: str, trial: str, rows: list[dict[str, Any]]) -> list[str]:
    numbers = [n for n, _ in attempts_in(at(root), "kills", trial)]
    claims = read_claims(root, [("kills", trial, n) for n in numbers])
    restored = {c["attempt"]: c["restored_step"] for c in claims}

    def allowed(attempt: int, step: int) -> bool:
        return restored[attempt] < step and all(step <= s for b, s in restored.items() if b > attempt)

    return [f"wrong attempt: {r}" for r in rows if not allowed(r["attempt"], r["step"])]


def loop(root: str, mutant: str, worker: tuple[Point, ...], ingester: tuple[Point, ...]) -> tuple[int, list[str]]:
    """Kill and restart until everything is done. Returns (effective kills, problems seen on the way and at the end)."""
    kills, seen = 0, []
    for turn in range(max(len(worker), len(ingester))):
        if turn < len(worker):
            kills += run("work", root, TRIALS[turn % 2], mutant, worker[turn])
        if turn < len(ingester):
            kills += run("ingest", root, "-", mutant, ingester[turn])
        if turn % 5 == 4:
            seen += problems(root)
        if turn % 7 == 6:  # the ingester's machine is gone, and with it its private file and its copies
            shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    for trial in TRIALS:
        assert not run("work", root, trial, mutant)
    assert not run("ingest", root, "-", mutant)
    seen += problems(root)
    steps = program().STEPS
    for source in (True, False):
        with Store(root).session(use_snapshot=source) as asked:
            for table in ("metrics", "step_metrics"):
                count = asked.sql(f"SELECT count(*) AS n FROM {table}").to_pylist()[0]["n"]
                if count != steps * len(TRIALS):
                    seen.append(f"{table}: {count} rows, expected {steps * len(TRIALS)} (snapshot {source})")
    return kills, seen


def test_a_few_kills_over_a_bucket_lose_and_double_nothing(s3_root: str) -> None:
    few = (("after-link", 1), ("durable-not-acknowledged", 4), ("half-checkpoint", 1), ("after-checkpoint-rename", 1))
    kills, seen = loop(s3_root, "", few, (("between-rows-and-ledger", 1), ("before-rename", 2)))
    assert kills == 6
    assert seen == []


@pytest.mark.slow
def test_fifty_kills_over_a_bucket_lose_and_double_nothing(s3_root: str) -> None:
    kills, seen = 0, []
    for half in ("one", "two", "three"):
        found = loop(f"{s3_root}/{half}", "", WORKER, INGESTER)
        kills, seen = kills + found[0], seen + found[1]
    assert kills >= 50
    assert seen == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "worker", "ingester"),
    [
        ("ledger-in-its-own-transaction", (("mid-step", 7), ("mid-step", 7)), (("between-rows-and-ledger", 1),) * 2),
        ("no-attempt-window", (("durable-not-acknowledged", 4),) * 4, (("after-commit", 1),)),
        ("checkpoint-before-flush", (("after-checkpoint-rename", 1),) * 2, ()),
    ],
)
def test_the_same_loop_catches_a_broken_store(
    s3_root: str,
    monkeypatch: pytest.MonkeyPatch,
    mutant: str,
    worker: tuple[Point, ...],
    ingester: tuple[Point, ...],
) -> None:
    for module, name in ((ingest, "load_segments"), (workfile, "create_views"), (session, "create_views")):
        monkeypatch.setattr(module, name, getattr(module, name))
    program().spoil(mutant)
    kills, seen = loop(s3_root, mutant, worker, ingester)
    assert kills >= 2
    assert seen, f"{mutant} went unnoticed"
