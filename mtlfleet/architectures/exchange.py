"""A trunk per task, joined between stages: what cross-stitch and NDDR networks have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from mtlfleet.architectures.base import Batch, Context, Output, Shape
from mtlfleet.architectures.heads import drawn
from mtlfleet.architectures.staged import Staged, StagedModel, one_input
from mtlfleet.plan.tasks import Task

Joint = Callable[[int, Shape], nn.Module]  # (place of the task, shape of a stage's output) -> its mixing


@dataclass(frozen=True, kw_only=True)
class Exchange(Staged):
    """Fields of both: ``others`` is the share of the other tasks' features at the start."""

    others: float = 0.1


class Exchanging(StagedModel):
    """A trunk per task; ``joints[l][task]`` makes the task's next input of all tasks' features after stage l."""

    def __init__(
        self, trunks: dict[str, nn.ModuleList], joints: nn.ModuleList, heads: nn.ModuleDict, kind: str
    ) -> None:
        super().__init__()
        self.trunks = nn.ModuleDict(trunks)
        self.joints = joints
        self.heads = heads
        self.kind = kind

    @classmethod
    def of(cls, spec: Staged, tasks: Sequence[Task], input_shape: Shape, joint: Joint) -> nn.Module:
        """A model of an architecture; what belongs to a task is drawn by the task's name."""
        root = int(torch.randint(2**62, ()))
        names = [task.name for task in tasks]
        stages = {t: drawn(root, f"trunk/{t}", lambda: spec.encoder(input_shape)) for t in names}
        shapes = [stage.shape for stage in stages[names[0]]]
        joints = nn.ModuleList(
            nn.ModuleDict({t: drawn(root, f"joint/{level}/{t}", partial(joint, n, shape)) for n, t in enumerate(names)})
            for level, shape in enumerate(shapes[:-1])
        )
        heads = spec.heads(tasks, shapes[-1], input_shape, root)
        trunks = {t: nn.ModuleList(given) for t, given in stages.items()}
        return cls(trunks, joints, heads, spec.name).settle(input_shape)

    def forward(self, batch: Batch, ctx: Context) -> Output:  # noqa: ARG002
        streams = dict.fromkeys(self.tasks, one_input(batch, self.kind))
        trunks = {task: list(self.trunks[task].children()) for task in self.tasks}
        for place in range(len(trunks[self.tasks[0]])):
            streams = {task: trunks[task][place](x) for task, x in streams.items()}
            if place < len(self.joints):
                given, joint = list(streams.values()), self.joints[place]
                assert isinstance(joint, nn.ModuleDict)
                streams = {task: joint[task](given) for task in self.tasks}
        return Output(self.predictions(streams))
