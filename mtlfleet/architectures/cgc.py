"""Customized gate control: experts of a task's own beside shared ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Batch, Context, Output, architecture
from mtlfleet.architectures.experts import Extracting, Gate
from mtlfleet.architectures.heads import drawn
from mtlfleet.architectures.staged import StagedModel, mixed, per_input
from mtlfleet.plan.tasks import Task


@architecture("cgc")
@dataclass(frozen=True, kw_only=True)
class CGC(Extracting):
    r"""Shared trunks and trunks of each task; a task's gate mixes the shared ones with its own.

    Math        :math:`z_t = \sum_{e \in S \cup E_t} g_{t,e}(x) f_e(x)`.
    Shapes      as hps, with ``shared_experts`` + T ``task_experts`` trunks and T gates.
    Source      Tang et al., Progressive Layered Extraction (PLE), RecSys 2020: a single layer.
    Departures  Images are averaged to 4 x 4 before a gate reads them.

    Parameters
    ----------
    shared_experts, task_experts:  how many trunks all tasks share, and how many each task has.
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps, for each expert.
    """

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        root = int(torch.randint(2**62, ()))

        def experts(whose: str, count: int) -> nn.ModuleList:
            made = self.encoders(input_shape, root, f"expert/{whose}", count)
            return nn.ModuleList(nn.Sequential(*stages) for stages in made)

        names = [task.name for task in tasks]
        own = nn.ModuleDict({t: experts(t, self.task_experts) for t in names})
        count = self.shared_experts + self.task_experts
        gates = nn.ModuleDict({t: drawn(root, f"gate/{t}", lambda: Gate(input_shape, count)) for t in names})
        shape = self.encoder_shape(input_shape)
        model = Customized(experts("*", self.shared_experts), own, gates, self.heads(tasks, shape, input_shape, root))
        return model.settle(input_shape)


class Customized(StagedModel):
    """Shared experts, experts and a gate per task, heads."""

    gate_names = ("gates.",)

    def __init__(self, shared: nn.ModuleList, own: nn.ModuleDict, gates: nn.ModuleDict, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.shared, self.own, self.gates, self.heads = shared, own, gates, heads

    def _seen(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        return [expert(x) for expert in self.shared], x

    def forward(self, batch: Batch, ctx: Context) -> Output:  # noqa: ARG002
        features = {}
        for task, (shared, x) in per_input(batch, self.tasks, self._seen).items():
            own = [expert(x) for expert in self.own[task].children()]
            features[task] = mixed(self.gates[task](x), [*shared, *own])
        return Output(self.predictions(features))
