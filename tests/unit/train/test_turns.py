"""Groups of tasks that take turns on a batch, against the loop written out."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import short_trials as trials

from mtlfleet.architectures.base import Context
from mtlfleet.datasets.base import Split
from mtlfleet.engine.gradients import Step
from mtlfleet.methods.grouping import group_weights
from mtlfleet.plan.trial import Trial
from mtlfleet.train import TrialRun
from mtlfleet.train.optimizers import Optimizers

STEPS = 4


def wanted(use: str, dropout: float = 0.0, tasks: int = 3, steps: int = STEPS, **given: Any) -> Trial:
    recipe = {"optimizer": "adam", "lr": 0.05, **given.pop("recipe", {})}
    cell = trials.trial("sum", steps=steps, eval_every=2, keep="last", **recipe)
    return replace(
        cell,
        method=trials.spec("method", use, **given),
        dataset=trials.spec("dataset", "synthetic_regression", tasks=tasks, train=90, val=30, test=30, dim=6),
        architecture=trials.spec("architecture", "hps", width=8, dropout=dropout),
        tasks=tuple(f"task_{k}" for k in range(tasks)),
    )


def trained(root: Path, cell: Trial) -> TrialRun:
    run = trials.start(root, cell)
    assert trials.finish(run).state == "done"
    return run


def weights(run: TrialRun) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.parts.model.state_dict().items()}


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], **how: float) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], **how)  # type: ignore[arg-type]


def written_out(root: Path, cell: Trial, size: int, own: bool) -> dict[str, torch.Tensor]:
    """The paper's loop in plain torch: for each batch, for each group, zero the gradients, pass, step."""
    run = trials.start(root, cell)
    model, tasks = run.parts.model, run.parts.tasks
    count = -(-len(tasks) // size)
    each = [torch.optim.Adam(model.parameters(), lr=0.05) for _ in range(count if own else 1)]
    for step in range(STEPS):
        batch = run.feed.at(step).batch
        for turn in range(count):
            group = group_weights(len(tasks), size, Step(turn, seed=cell.seed))
            optimizer = each[turn % len(each)]
            optimizer.zero_grad()
            output = model(batch, Context())
            losses = [run.parts.dataset.loss(t, output.predictions[t.name], batch) for t in tasks]
            torch.stack([loss for loss, w in zip(losses, group, strict=True) if w]).sum().backward()
            optimizer.step()
    assert run.parts.splits[Split.TRAIN]
    return weights(run)


@pytest.mark.parametrize(("use", "size"), [("ius", 1), ("io", 1), ("ius", 2), ("io", 2)])
def test_turns_are_the_loop_written_out(use: str, size: int, tmp_path: Path) -> None:
    cell = wanted(use, group_size=size)
    run = trained(tmp_path / "ours", cell)
    expected = written_out(tmp_path / "theirs", cell, size, own=use == "io")
    close(weights(run), expected, rtol=1e-5, atol=1e-6)
    assert run.position.step == STEPS
    assert run.engine.steps == STEPS * (3 if size == 1 else 2)


def test_who_owns_the_moments_matters_and_one_group_is_the_sum(tmp_path: Path) -> None:
    found = {use: weights(trained(tmp_path / use, wanted(use))) for use in ("ius", "io", "sum")}
    first = next(iter(found["ius"]))
    assert not torch.allclose(found["ius"][first], found["io"][first], rtol=1e-3)
    whole = weights(trained(tmp_path / "whole", wanted("ius", group_size=3)))
    assert all(torch.equal(whole[name], tensor) for name, tensor in found["sum"].items())
    plain = {"optimizer": "sgd", "lr": 0.05}
    shared, own = (weights(trained(tmp_path / f"sgd_{use}", wanted(use, recipe=plain))) for use in ("ius", "io"))
    assert all(torch.equal(shared[name], tensor) for name, tensor in own.items()), "nothing to own without momentum"


def test_groups_are_a_partition_drawn_once_per_seed() -> None:
    for size in (1, 2, 3, 5, 9):
        turns = -(-7 // size)
        drawn = torch.stack([group_weights(7, size, Step(turn, seed=4)) for turn in range(turns)])
        assert drawn.sum(0).tolist() == [1.0] * 7
        assert drawn.sum(1).tolist()[:-1] == [float(size)] * (turns - 1)
        again = torch.stack([group_weights(7, size, Step(turn + 3 * turns, seed=4)) for turn in range(turns)])
        assert torch.equal(drawn, again)
    assert len({tuple(group_weights(7, 3, Step(seed=seed)).tolist()) for seed in range(9)}) > 1


def test_a_paused_trial_keeps_every_groups_optimizer(tmp_path: Path) -> None:
    cell = wanted("io", dropout=0.3, steps=8)
    whole = weights(trained(tmp_path / "whole", cell))
    broken = trials.start(tmp_path / "broken", cell)
    broken.advance(seconds=0.0)
    assert 0 < broken.position.step < 8
    broken.pause()
    again = weights(trained(tmp_path / "broken", cell))
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_a_checkpoint_of_one_optimizer_alone_is_still_read(tmp_path: Path) -> None:
    run = trained(tmp_path, wanted("sum"))
    (state,) = run.optimizers.state_dict()
    fresh = Optimizers(run.trial.recipe, run.parts.model, 1)
    fresh.load_state_dict(state)
    assert fresh.state_dict()[0]["state"].keys() == state["state"].keys() != set()
    with pytest.raises(ValueError, match="shorter"):
        Optimizers(run.trial.recipe, run.parts.model, 2).load_state_dict(state)
