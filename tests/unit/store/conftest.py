"""A small finished study: STL and two methods on one dataset, two tasks, two seeds; one run with a NaN."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mtlfleet.store import AttemptWriter, write_document

TASKS = ("a", "b")


def trial_rows(methods: tuple[str, ...] = ("stl", "ls", "pcgrad"), seeds: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": f"{method}{seed}{task if task != '*' else ''}",
            "phase": "final",
            "method": method,
            "method_use": method,
            "dataset": "d",
            "architecture": "hps",
            "task": task,
            "tasks": [task] if task != "*" else list(TASKS),
            "seed": seed,
            "config_index": 0,
            "label": f"{method}/d/s{seed}",
            "params": {"c": 0.5},
            "config": {"method": method},
            "config_sha256": "0" * 64,
            "world_size": 1,
            "steps": 10,
        }
        for method in methods
        for seed in range(seeds)
        for task in (TASKS if method == "stl" else ("*",))
    ]


def measured(trial: str, task: str, metric: str) -> float:
    """A value that depends on all three, by hand-checkable arithmetic."""
    base = 0.5 + 0.01 * (sum(map(ord, trial)) % 17) + (0.1 if task == "b" else 0.0)
    return base if metric == "accuracy" else 1.0 - base


def write_trial(
    root: Path, row: dict[str, Any], *, spoil: tuple[str, str] | None = None, state: str = "done", study: str = "s"
) -> None:
    writer = AttemptWriter.claim(
        root, study, row["trial_id"], restored_step=0, restored_checkpoint=None, world_size=1,
        facts={"node": "n1", "environment": {"python": "3.11.7", "torch": "2.13.0", "packages": {"duckdb": "2.0.0"}}},
    )  # fmt: skip
    for task in row["tasks"]:
        for step in (5, 10):
            writer.step_metric(step, task, "loss", 1.0 / step)
        for split in ("val", "test"):
            for metric in ("accuracy", "error"):
                broken = spoil == (task, metric) and split == "test"
                value = math.nan if broken else measured(row["trial_id"], task, metric)
                writer.metric(10, 1.0, split, task, metric, value, 100, True)
        writer.metric(10, 1.0, "test", task, "loss", 0.3, 100, True)
    writer.task_gradients(
        5, scope="shared", tasks=["a", "b", "c"], losses=[1, 2, 3], norms=[1, 2, 3], cos_upper=[0.25, -0.5, 0.75],
        weights=None, conflict_fraction=1 / 3, update_norm=1.0, status="ok", descents=[0.5, -0.25, 1], norm_to_sum=0.5,
        gram_condition=8.0,
    )  # fmt: skip
    writer.artifact(10, "weights", f"artifacts/study={study}/trial={row['trial_id']}/w", 8, "0" * 64)
    writer.event(10, "info", "note", "\x1b]52;c;aGk=\x07=cmd()")
    writer.close(state, "why" if state != "done" else "", 10, 2.0, 4.0)


def write_documents(root: Path, rows: list[dict[str, Any]], study: str = "s") -> None:
    write_document(root, study, "studies", [{"title": "a study", "spec": {"x": 1}, "spec_sha256": "1"}])
    write_document(root, study, "trials", rows)
    facts = {"dataset": "d", "kind": "classification", "outputs": 2, "primary_metric": "accuracy", "chance": 0.5}
    write_document(root, study, "task_defs", [{**facts, "task": task} for task in TASKS])
    defs = (("accuracy", "max", 1.0), ("error", "min", 0.0), ("loss", "none", 0.0))
    write_document(
        root, study, "metric_defs",
        [{"metric": m, "unit": "fraction", "direction": d, "scale": "ratio", "best": b} for m, d, b in defs],
    )  # fmt: skip


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Path]:
    def make(
        name: str = "store", *, spoil: dict[str, tuple[str, str]] | None = None, skip: tuple[str, ...] = ()
    ) -> Path:
        root = tmp_path / name
        rows = trial_rows()
        write_documents(root, rows)
        for row in rows:
            if row["trial_id"] not in skip:
                write_trial(root, row, spoil=(spoil or {}).get(row["trial_id"]))
        return root

    return make


@pytest.fixture
def small() -> ModuleType:
    """This module: how the small study is made, for tests that make it in steps."""
    return sys.modules[__name__]
