"""Launches on real Ray that cannot go well: a method that raises, a request that no node can hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import fleet

BROKEN = '''\
from dataclasses import dataclass

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method


@method("broken")
@dataclass(frozen=True, kw_only=True)
class Broken(LossWeighting[None]):
    """Fails at its third step on purpose."""

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:
        if at.number == 2:
            raise RuntimeError("the third step is one too many")
        return Decision(Weights(losses * 0 + 1), state)
'''


def test_a_failing_method_is_an_outcome_with_a_log_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    text = fleet.STUDY[: fleet.STUDY.index("search:")] + "resources: {workers: 2}\nplugins: [./broken.py]\n"
    study = fleet.write(
        tmp_path,
        text,
        ("pcgrad: {}", "broken: {}"),
        ("space: {weights: {simplex: {tasks: 2, points: 3}}}", "params: {}"),
    )
    done = fleet.run("launch", study)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "2 failed" in done.stderr
    assert "resume" in done.stderr
    failures = fleet.run("status", study, "--failures")
    assert "the third step is one too many" in failures.stdout
    mended = BROKEN.replace("at.number == 2", "at.number == -1")
    assert mended != BROKEN
    untouched = fleet.run("launch", study, "--json")
    assert json.loads(untouched.stdout)["ran"] == 0, "a failure is not re-run unasked"
    again = fleet.run("resume", study, "--failed", "--json")
    assert json.loads(again.stdout)["ran"] == 2


def test_a_request_no_node_can_hold_is_refused_with_numbers(tmp_path: Path) -> None:
    study = fleet.write(tmp_path, fleet.STUDY, ("workers: 2", "workers: 2, cpus_per_worker: 512"))
    done = fleet.run("launch", study)
    assert done.returncode == 4
    assert "no node can hold" in done.stderr
    assert "2 x 512 CPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert "locked" not in done.stderr, "a claim is locked where its study can run"
    assert not list(study.parent.rglob("*@1.json"))
