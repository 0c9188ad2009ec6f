"""Hard parameter sharing: one trunk, one head per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mtlfleet.architectures.base import Batch, Context, Output, architecture
from mtlfleet.architectures.staged import Staged, StagedModel, per_input
from mtlfleet.plan.tasks import Task


@architecture("hps")
@dataclass(frozen=True, kw_only=True)
class HPS(Staged):
    r"""All tasks read one representation; each has its own head. With one task, its single-task network.

    Math        :math:`z = f(x; \theta)`, :math:`\hat y_t = h_t(z)`; with an input per task, :math:`z_t = f(x_t;
                \theta)`.
    Shapes      inputs ``[B, ...]`` -> z -> predictions ``[B, outputs_t]``, or ``[B, outputs_t, H, W]`` of a dense task.
    Source      Caruana, Multitask Learning, Machine Learning 1997.
    Departures  The trunk's first weights depend on the seed alone and a head's on the seed and the task's name, so that
                a multi-task model and its single-task references start from the same numbers.

    Parameters
    ----------
    backbone:     registry name of the trunk; ``backbone_params`` is a map of what it takes beside the next three.
    width, depth, dropout:  the trunk's; see the backbone.
    head:         of dense tasks: ``plain``, or ``deeplab`` (atrous pyramid).
    head_hidden:  units of a hidden layer in each head; 0 for linear heads.
    """

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        stages = self.encoder(input_shape)
        root = int(torch.randint(2**62, ()))
        model = HardSharing(nn.Sequential(*stages), self.heads(tasks, stages[-1].shape, input_shape, root))
        return model.settle(input_shape)


class HardSharing(StagedModel):
    """A trunk and its heads, by task name."""

    def __init__(self, trunk: nn.Module, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = heads

    def forward(self, batch: Batch, ctx: Context) -> Output:  # noqa: ARG002
        features = per_input(batch, self.tasks, self.trunk)
        shown = {"shared": features[self.tasks[0]]} if isinstance(batch.inputs, torch.Tensor) else {}
        return Output(self.predictions(features), shown)
