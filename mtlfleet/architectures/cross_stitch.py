"""A network per task, whose features are mixed between stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Shape, architecture
from mtlfleet.architectures.exchange import Exchange, Exchanging
from mtlfleet.plan.tasks import Task


class Stitch(nn.Module):
    """One task's next input: a sum over all tasks' features, weighted channel by channel; weights [T, C]."""

    def __init__(self, tasks: int, own: int, channels: int, others: float) -> None:
        super().__init__()
        start = torch.full((tasks, channels), others / (tasks - 1)) if tasks > 1 else torch.ones(1, channels)
        if tasks > 1:
            start[own] = 1 - others
        self.weights = nn.Parameter(start)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        tail = (1 for _ in features[0].shape[2:])
        shape = (1, -1, *tail)
        return torch.stack([w.view(shape) * x for w, x in zip(self.weights, features, strict=True)]).sum(0)


@architecture("cross_stitch")
@dataclass(frozen=True, kw_only=True)
class CrossStitch(Exchange):
    r"""One network per task; after each stage but the last, each task reads a learned mixture of all tasks' features.

    Math        :math:`x_i^{l+1} = f_i^{l+1}(\sum_j \alpha_{ij}^l \odot x_j^l)`, per channel; ``others`` is divided over
                :math:`j \ne i`, :math:`\alpha_{ii} = 1 -` ``others``.
    Shapes      as hps, with T trunks; T^2 C numbers per stitch.
    Source      Misra et al., Cross-Stitch Networks for Multi-task Learning, CVPR 2016; first values as in Vandenhende
                et al., Multi-Task Learning for Dense Prediction Tasks, PAMI 2021.
    Departures  Networks start from drawn weights, not from trained single-task ones. Rows sum to one at the start,
                where LibMTL starts from ones, which multiplies activations by T at each stage.

    Parameters
    ----------
    others:       share of the other tasks' features at the start.
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps, for each task's network.
    """

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        def stitch(own: int, shape: Shape) -> nn.Module:
            return Stitch(len(tasks), own, shape[0], self.others)

        return Exchanging.of(self, tasks, input_shape, stitch)
