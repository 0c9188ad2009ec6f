"""SIGKILL at every moment that matters: no row lost, none twice, none of the wrong attempt; mutants are caught."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtlfleet.store import failpoints

PROGRAM = Path(__file__).with_name("store_kill_loop.py")


def loop(*words: str, timeout: float = 600) -> dict[str, Any]:
    """The report of one run of the loop."""
    command = [sys.executable, str(PROGRAM), "--json", *words]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert found.returncode in (0, 1) and found.stdout, found.stderr
    report: dict[str, Any] = json.loads(found.stdout)
    return report


def test_thirty_kills_lose_and_double_nothing() -> None:
    report = loop("--kills", "30")
    assert report["kills"] >= 30 and report["polls"] > 0 and report["zombies"] > 0
    assert report["problems"] == {}, report["examples"]


@pytest.mark.slow
def test_many_kills_at_every_point_lose_and_double_nothing() -> None:
    report = loop("--kills", "200", "--seed", "1", timeout=1800)
    assert report["kills"] >= 150
    assert report["problems"] == {}, report["examples"]
    assert report["bad_polls"] == 0
    reached = {point.partition(":")[2] for point in report["points"]}
    assert reached >= {*failpoints.WRITER, *failpoints.INGESTER}


@pytest.mark.parametrize(
    ("mutant", "seen_as"),
    [
        ("ledger-in-its-own-transaction", {"duplicate"}),
        ("checkpoint-before-flush", {"lost"}),
        ("no-attempt-window", {"duplicate", "wrong attempt"}),
        ("ack-before-durable", {"acknowledged and lost", "lost"}),
        pytest.param("no-checkpoint-window", {"lost"}, marks=pytest.mark.slow),  # needs a zombie's checkpoint to be met
    ],
)
def test_the_same_loop_catches_a_broken_store(mutant: str, seen_as: set[str]) -> None:
    report = loop("--kills", "400" if mutant == "no-checkpoint-window" else "60", "--mutant", mutant, "--stop-early")
    assert seen_as & set(report["problems"]), f"{mutant} went unnoticed: {report}"
    assert "crash" not in report["problems"], report["examples"]
