"""Trials on architectures with phases, gates and extra losses, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtlfleet import registry
from mtlfleet.plan.trial import Recipe, Spec, Trial
from mtlfleet.train import Communicator, Site, TrialRun

TASKS = ("task_0", "task_1", "task_2")


def spec(kind: str, use: str, **given: Any) -> Spec:
    return Spec(use, use, registry.Catalogue().parameters(kind, use, given))


def run(root: Path, architecture: Spec, strategy: str, method: str = "pcgrad", steps: int = 60) -> TrialRun:
    trial = Trial(
        method=spec("method", method),
        dataset=spec("dataset", "synthetic_regression", tasks=3, train=128, val=64, test=64, dim=6),
        architecture=architecture,
        strategy=spec("strategy", strategy),
        recipe=Recipe(
            lr=0.02, global_batch=32, steps=steps, eval_every=steps // 2, weight_decay=0.01, optimizer="adamw"
        ),
        tasks=TASKS,
        seed=3,
        phase="final",
    )
    made = TrialRun(trial, Site(root, "study"), Communicator())
    made.begin()
    return made


def finish(trial: TrialRun) -> Any:
    while not (progress := trial.advance()).finished:
        pass
    return progress


def test_individual_training_leaves_the_private_networks_as_single_task_learning_made_them(tmp_path: Path) -> None:
    architecture = spec("architecture", "smtl", width=8)
    trial = run(tmp_path, architecture, "individual", method="linear")
    model, start = trial.parts.model, {n: p.clone() for n, p in trial.parts.model.named_parameters()}
    for _ in range(30):
        trial._step()
    middle = {n: p.clone() for n, p in model.named_parameters()}
    private = {n for n, role in model.roles().items() if role.startswith("task:")}  # type: ignore[operator]
    assert all(torch.equal(start[n], middle[n]) for n in middle if n not in private)
    assert not any(torch.equal(start[n], middle[n]) for n in private if n.startswith("private"))
    for _ in range(30):
        trial._step()
    end = dict(model.named_parameters())
    assert all(torch.equal(middle[n], end[n]) for n in private)
    assert all(not torch.equal(middle[n], end[n]) for n in end if n.startswith(("public", "gates")))
    trial.pause()


@pytest.mark.parametrize("name", ["smtl", "dselect_k", "ltb", "ple", "cross_stitch"])
def test_a_trial_is_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Killed at a checkpoint and begun again: temperatures, gates and drawn parents go on as if nothing had been."""
    architecture = spec("architecture", name, width=8, **({"lite": True} if name == "smtl" else {}))
    whole = run(tmp_path / "whole", architecture, "joint", steps=24)
    assert finish(whole).state == "done"
    first = run(tmp_path / "parts", architecture, "joint", steps=24)
    for _ in range(10):
        first._step()
    first.pause()
    second = run(tmp_path / "parts", architecture, "joint", steps=24)
    assert second.position.step == 10
    assert finish(second).state == "done"
    ends = [dict(t.parts.model.named_parameters()) for t in (whole, second)]
    assert all(torch.equal(p, ends[1][n]) for n, p in ends[0].items())
