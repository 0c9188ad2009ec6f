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


@pytest.mark.parametrize(("place", "kills"), [((), 30), (("--s3",), 6)], ids=["folder", "bucket"])
def test_a_few_kills_lose_and_double_nothing(place: tuple[str, ...], kills: int) -> None:
    report = loop("--kills", str(kills), *place)
    assert report["kills"] >= kills and report["polls"] > 0
    assert kills < 30 or report["zombies"] > 0  # every fourth or so: six kills may have none
    assert report["problems"] == {}, report["examples"]


@pytest.mark.slow
def test_fifty_kills_over_a_bucket_lose_and_double_nothing() -> None:
    report = loop("--kills", "50", "--seed", "1", "--s3", timeout=1800)
    assert report["kills"] >= 50 and report["problems"] == {}, report["examples"]


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
    caught(mutant, seen_as)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "seen_as"),
    [
        ("ledger-in-its-own-transaction", {"duplicate"}),
        ("checkpoint-before-flush", {"lost"}),
        ("no-attempt-window", {"duplicate", "wrong attempt"}),
    ],
)
def test_the_loop_over_a_bucket_catches_it_too(mutant: str, seen_as: set[str]) -> None:
    caught(mutant, seen_as, "--s3")


def caught(mutant: str, seen_as: set[str], *place: str) -> None:
    report = loop("--kills", "400", "--mutant", mutant, "--stop-early", *place)
    assert seen_as & set(report["problems"]), f"{mutant} went unnoticed: {report}"
    assert "crash" not in report["problems"], report["examples"]
