"""Batch norm by task, in an architecture that is one small file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import short_trials

from mtlfleet.architectures.base import Batch, Context
from mtlfleet.architectures.tasknorm import TaskNorm, per_task
from mtlfleet.train import Site, TrialRun

PLUGIN = '''
"""Hard sharing of weights; each task normalises by its own statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Output, architecture
from mtlfleet.architectures.staged import Staged, StagedModel
from mtlfleet.architectures.tasknorm import passing, per_task


@architecture("own_norms")
@dataclass(frozen=True, kw_only=True)
class OwnNorms(Staged):
    """A pass of one trunk for each task."""

    def build(self, tasks, input_shape):
        stages = self.encoder(input_shape)
        trunk = per_task(nn.Sequential(*stages), [task.name for task in tasks])
        root = int(torch.randint(2**62, ()))
        return Model(trunk, self.heads(tasks, stages[-1].shape, input_shape, root)).settle(input_shape)


class Model(StagedModel):
    def __init__(self, trunk, heads):
        super().__init__()
        self.trunk, self.heads = trunk, heads

    def forward(self, batch, ctx):
        features = {}
        for task in self.tasks:
            with passing(task):
                features[task] = self.trunk(batch.inputs if isinstance(batch.inputs, Tensor) else batch.inputs[task])
        return Output(self.predictions(features))
'''
TASKS = ("segmentation", "depth")


def begun(root: Path) -> TrialRun:
    (root / "own_norms.py").write_text(PLUGIN)
    site = Site(root, "study", ("./own_norms.py",), root)
    backbone = {"backbone": "segnet", "width": 4, "depth": 2, "backbone_params": {"norm": "batch"}}
    wanted = replace(
        short_trials.trial("pcgrad", site=site, steps=6, eval_every=3, global_batch=8, keep="last"),
        dataset=short_trials.spec("dataset", "densedigits", train=32, val=8, test=8),
        architecture=short_trials.spec("architecture", "own_norms", site.catalogue, **backbone),
        tasks=TASKS,
    )
    return short_trials.start(root, wanted, site)


def test_it_trains_and_resumes_bit_for_bit_and_roles_come_out(tmp_path: Path) -> None:
    assert len(PLUGIN.strip().splitlines()) <= 40
    ends = []
    for name, stop in (("whole", 0), ("parts", 2)):
        root = tmp_path / name
        root.mkdir()
        run = begun(root)
        start = {n: t.clone() for n, t in run.parts.model.state_dict().items()}
        if stop:
            for _ in range(stop):
                run._step()
            run.pause()
            run = begun(root)
            assert run.position.step == stop
        assert short_trials.finish(run).state == "done"
        ends.append({n: t.clone() for n, t in run.parts.model.state_dict().items()})
    assert all(torch.equal(tensor, ends[1][n]) for n, tensor in ends[0].items())
    assert not any(torch.equal(start[n], ends[0][n]) for n in start if n.endswith(("weight", "running_mean")))
    roles = run.parts.model.roles()  # type: ignore[operator]
    norms = {n for n in roles if ".of." in n}
    assert norms and all(roles[n] == "task:" + n.split(".of.")[1].split(".")[0] for n in norms)
    assert {roles[n] for n in roles if n.startswith("trunk") and n not in norms} == {"shared"}


def test_a_task_does_not_see_the_other_tasks_batches(tmp_path: Path) -> None:
    """Neither in its running statistics nor, when they are used, in its predictions."""
    run = begun(tmp_path)
    model, start = run.parts.model, {n: t.clone() for n, t in run.parts.model.state_dict().items()}
    mine, quiet, loud = torch.rand(4, 1, 24, 24), torch.rand(4, 1, 24, 24), 9 + 5 * torch.rand(4, 1, 24, 24)
    found = []
    for other in (quiet, loud):
        model.load_state_dict(start)
        model.train()
        model(Batch({"segmentation": mine, "depth": other}, {}, {}, torch.arange(4)), Context())
        model.eval()
        seen = model(Batch(mine, {}, {}, torch.arange(4)), Context())
        found.append(({n: t.clone() for n, t in model.named_buffers()}, seen.predictions))
    statistics = [n for n in found[0][0] if n.endswith("running_mean")]
    for task, alike in (("segmentation", True), ("depth", False)):
        for name in (n for n in statistics if f".of.{task}." in n):
            assert torch.equal(found[0][0][name], found[1][0][name]) is alike
            assert not torch.equal(found[0][0][name], start[name])
        assert torch.equal(found[0][1][task], found[1][1][task]) is alike
    run.pause()


def test_a_pass_for_no_task_is_refused() -> None:
    trunk = per_task(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), TASKS)
    assert isinstance(trunk[1], TaskNorm)  # type: ignore[index]
    with pytest.raises(ValueError, match="passing"):
        trunk(torch.rand(2, 3))
