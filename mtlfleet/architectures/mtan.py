"""Attention of each task over a shared trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlfleet.architectures.base import Batch, Context, Output, Shape, Stage, architecture
from mtlfleet.architectures.heads import drawn, groups
from mtlfleet.architectures.staged import Staged, StagedModel, per_input
from mtlfleet.plan.tasks import Task


def _layer(shape: Shape, entering: int, leaving: int, *, size: int = 1, relu: bool = True) -> nn.Module:
    """A convolution on maps, or a linear layer on vectors; normalised; ReLU if asked for."""
    after: list[nn.Module] = [nn.ReLU()] if relu else []
    if len(shape) == 3:
        return nn.Sequential(nn.Conv2d(entering, leaving, size, padding=size // 2), groups(leaving), *after)
    return nn.Sequential(nn.Linear(entering, leaving), groups(leaving, 1), *after)


class Attention(nn.Module):
    """A task's mask at one stage, in (0, 1), from the shared features and what the task attended to before."""

    def __init__(self, early: Shape, before: int, late: Shape) -> None:
        super().__init__()
        middle = max(1, late[0] // 4) if late[0] >= 64 else late[0]
        self.inner = _layer(late, early[0] + before, middle)
        self.outer = _layer(late, middle, late[0], relu=False)

    def forward(self, u: Tensor, before: Tensor | None) -> Tensor:
        found: Tensor = torch.sigmoid(self.outer(self.inner(u if before is None else torch.cat((u, before), 1))))
        return found


class Carry(nn.Module):
    """What was attended to at one stage, in the width and size of the next: one for all tasks."""

    def __init__(self, late: Shape, following: Shape) -> None:
        super().__init__()
        self.layer = _layer(late, late[0], following[0], size=3)
        self.size = following[1:]

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if x.dim() == 4:
            if not self.size:
                return x.mean((2, 3))
            if x.shape[2] >= self.size[0]:
                return F.adaptive_max_pool2d(x, self.size)
            return F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        return x


@architecture("mtan")
@dataclass(frozen=True, kw_only=True)
class MTAN(Staged):
    r"""One shared trunk; at every stage each task masks its features and carries on what it attended to.

    Math        :math:`a_j^t = \sigma(\mathrm{norm}\, W_2 \mathrm{ReLU}(\mathrm{norm}\, W_1 [u_j; f_j(\hat
                a_{j-1}^t)]))`, :math:`\hat a_j^t = a_j^t \odot p_j`; u and p are a stage's features after its first
                part and at its end.
    Shapes      as hps; masks have the shape of :math:`p_j`; a head reads the last :math:`\hat a`.
    Source      Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019. With ``backbone:
                segnet`` the paper's network, with ``backbone: resnet`` the one of LibMTL.
    Departures  Group normalisation in place of batch normalisation (whose statistics of two images are noise). Any
                staged backbone: on vectors the 1 x 1 convolutions are linear layers. Stages of 64 channels or more
                have a mask net a quarter as wide, narrower ones one as wide as they are.

    Parameters
    ----------
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps.
    """

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        stages = self.encoder(input_shape)
        root = int(torch.randint(2**62, ()))
        carries = [
            drawn(root, f"carry/{j}", partial(Carry, here.late, following.late))
            for j, (here, following) in enumerate(pairwise(stages))
        ]

        def attention(task: str) -> nn.ModuleList:
            befores = [0, *(stage.late[0] for stage in stages[1:])]
            return nn.ModuleList(
                drawn(root, f"mask/{task}/{j}", partial(Attention, stage.early, before, stage.late))
                for j, (stage, before) in enumerate(zip(stages, befores, strict=True))
            )

        masks = nn.ModuleDict({task.name: attention(task.name) for task in tasks})
        heads = self.heads(tasks, stages[-1].shape, input_shape, root)
        return Attending(stages, nn.ModuleList(carries), masks, heads).settle(input_shape)


class Attending(StagedModel):
    """The shared stages, the carries between them, each task's masks, heads."""

    def __init__(self, stages: list[Stage], carries: nn.ModuleList, masks: nn.ModuleDict, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.carries, self.masks, self.heads = carries, masks, heads

    def _shared(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(u, p) of every stage."""
        found = []
        for stage in self.stages:
            assert isinstance(stage, Stage)
            u = stage.first(x)
            p = stage.rest(u)
            found.append((u, p))
            x = stage.down(p)
        return found

    def forward(self, batch: Batch, ctx: Context) -> Output:  # noqa: ARG002
        features = {}
        last = self.stages[-1]
        assert isinstance(last, Stage)
        for task, shared in per_input(batch, self.tasks, self._shared).items():
            attended: Tensor | None = None
            for j, (mask, (u, p)) in enumerate(zip(self.masks[task].children(), shared, strict=True)):
                before = None if attended is None else self.carries[j - 1](attended)
                attended = mask(u, before) * p
            features[task] = last.down(attended)
        return Output(self.predictions(features))
