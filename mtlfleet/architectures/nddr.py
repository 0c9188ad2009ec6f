"""A network per task, whose features are joined by learned projections between stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Shape, architecture
from mtlfleet.architectures.exchange import Exchange, Exchanging
from mtlfleet.architectures.heads import groups
from mtlfleet.plan.tasks import Task


class Fusion(nn.Module):
    """All tasks' features side by side, projected (1 x 1) back to one task's channels, normalised, ReLU."""

    def __init__(self, tasks: int, own: int, shape: Shape, others: float) -> None:
        super().__init__()
        channels = shape[0]
        self.project: nn.Conv2d | nn.Linear
        if len(shape) == 3:
            self.project = nn.Conv2d(tasks * channels, channels, 1, bias=False)
        else:
            self.project = nn.Linear(tasks * channels, channels, bias=False)
        rest = others / (tasks - 1) if tasks > 1 else 0.0
        shares = [(1 - others if tasks > 1 else 1.0) if t == own else rest for t in range(tasks)]
        diagonal = torch.cat([share * torch.eye(channels) for share in shares], 1)
        with torch.no_grad():
            self.project.weight.copy_(diagonal.view_as(self.project.weight))
        self.norm = groups(channels, 1 if len(shape) == 1 else 8)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.relu(self.norm(self.project(torch.cat(list(features), 1))))


@architecture("nddr")
@dataclass(frozen=True, kw_only=True)
class NDDR(Exchange):
    r"""One network per task; after each stage but the last, a projection of all tasks' features feeds the next stage.

    Math        :math:`x_i^{l+1} = f_i^{l+1}(\mathrm{ReLU}(\mathrm{norm}(W_i^l [x_1^l; \ldots; x_T^l])))`; W starts as
                the diagonal 1 - ``others`` on the task's own features and ``others`` divided over the other tasks'.
    Shapes      as hps, with T trunks; T^2 C^2 numbers per stage.
    Source      Gao et al., NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs, CVPR 2019.
    Departures  Group normalisation in place of batch normalisation; one learning rate (the source multiplies that of
                the projections by 100); networks start from drawn weights.

    Parameters
    ----------
    others:       share of the other tasks' features at the start.
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps, for each task's network.
    """

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        return Exchanging.of(self, tasks, input_shape, lambda own, shape: Fusion(len(tasks), own, shape, self.others))
