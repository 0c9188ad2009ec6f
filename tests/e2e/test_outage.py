"""The object storage goes away in the middle of a launch: for longer than a request insists, and for less."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fleet
import s3_server as s3

from mtlfleet.store.place import at

STUDY = """\
schema: mtlfleet/study/1
study: tiny
methods: {ls: {use: linear}, pcgrad: {}}
datasets: {synth: {use: synthetic_regression, params: {train: 256, val: 64, test: 64, dim: 8}}}
architectures: {mlp: {use: hps, params: {backbone: mlp, width: 8, dropout: 0.1}}}
seeds: [1, 2]
train: {lr: 0.01, global_batch: 32, steps: 120, eval_every: 40, checkpoint_every: 20, log_every: 10}
resources: {max_concurrent: 2}
"""
TRIALS = 4
COUNTS = "SELECT (FROM metrics SELECT count(*)) AS metrics, (FROM step_metrics SELECT count(*)) AS steps"


@pytest.fixture
def gate(s3_root: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Gate]:
    """An open door before the server, through which every process started from here goes; this one does not."""
    found = s3.Gate(s3_server)
    found.open()
    at(s3_root)  # connected without it
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.address)
    yield found
    found.close()


@contextmanager
def launched(study: Path) -> Iterator[subprocess.Popen[str]]:
    """A launch under way; killed if the test ends before it does."""
    words = fleet.command("launch", study, "--json", "--progress", "plain")
    with subprocess.Popen(
        words, env=fleet.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for(running: subprocess.Popen[str], seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not seen():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def results(study: Path) -> tuple[str, object]:
    """The digest, and how many rows count: not one is lost or doubled."""
    said = fleet.run("sql", study, COUNTS, "--format", "json")
    assert said.returncode == 0, said.stderr
    return fleet.run("digest", study).stdout.split()[0], json.loads(said.stdout)


def ends(root: str) -> int:
    return sum(key.endswith(".end.json") for key in at(root).walk("segments"))


@pytest.mark.slow
def test_an_outage_leaves_no_trace_in_the_results(
    s3_root: str, gate: s3.Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = fleet.write(tmp_path / "folder", STUDY)
    done = fleet.run("launch", here, timeout=900)
    assert done.returncode == 0, done.stderr
    expected = results(here)
    there = fleet.write(tmp_path / "bucket", STUDY + f'storage: {{root: "{s3_root}"}}\n')

    # Longer than a request insists: the launch lets everything go, and says why.
    monkeypatch.setenv("MTLFLEET_OBJECT_RETRY_S", "2")
    with launched(there) as running:
        wait_for(running, lambda: bool(list(at(s3_root).walk("checkpoints"))))
        gate.shut()
        out, said = running.communicate(timeout=600)
    assert running.returncode == 4, said
    assert out == "" and "Traceback" not in said and "stopping: the results cannot be" in said
    assert f"endpoint: {gate.address}" in said and "the same command goes on from there" in said
    before = ends(s3_root)
    assert before < TRIALS
    gate.open()

    # Shorter: it waits, whoever was asking.
    monkeypatch.delenv("MTLFLEET_OBJECT_RETRY_S")
    with launched(there) as running:
        wait_for(running, lambda: ends(s3_root) > before)
        gate.shut()
        time.sleep(30)  # half of what it insists
        assert running.poll() is None
        gate.open()
        out, said = running.communicate(timeout=600)
    assert running.returncode == 0, said
    assert "Traceback" not in said and json.loads(out)["states"] == {"done": TRIALS}
    assert results(there) == expected

    # And damage is put right as in a folder.
    damaged = next(key for key in at(s3_root).walk("segments") if "/metrics-" in key)
    at(s3_root).put(damaged, at(s3_root).read(damaged)[:-20])
    assert fleet.run("doctor", there).returncode == 7
    mended = fleet.run("doctor", there, "--repair")
    assert mended.returncode == 0 and "1 trial will run again" in mended.stdout, mended.stdout + mended.stderr
    again = fleet.run("launch", there, "--json", timeout=900)
    assert again.returncode == 0 and json.loads(again.stdout)["ran"] == 1, again.stderr
    assert results(there) == expected
    assert fleet.run("doctor", there).returncode == 0
