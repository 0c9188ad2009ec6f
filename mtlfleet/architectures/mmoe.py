"""Multi-gate mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Batch, Context, Output, architecture
from mtlfleet.architectures.experts import Gate
from mtlfleet.architectures.heads import drawn
from mtlfleet.architectures.staged import Staged, StagedModel, mixed, per_input
from mtlfleet.plan.tasks import Task


@architecture("mmoe")
@dataclass(frozen=True, kw_only=True)
class MMoE(Staged):
    r"""Several trunks that all tasks share; each task reads a mixture of them, weighted by a gate of its own.

    Math        :math:`z_t = \sum_e g_{t,e}(x) f_e(x)`, :math:`g_t = \mathrm{softmax}(W_t\, \mathrm{pool}(x) + b_t)`.
    Shapes      as hps, with ``experts`` trunks and T gates.
    Source      Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD
                2018.
    Departures  Images are averaged to 4 x 4 before a gate reads them.

    Parameters
    ----------
    experts:      how many trunks.
    one_gate:     one gate for all tasks (the source's OMoE).
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps, for each expert.
    """

    experts: int = 4
    one_gate: bool = False

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        if self.experts < 1:
            raise ValueError(f"mmoe: experts must be at least 1, found {self.experts}")
        root = int(torch.randint(2**62, ()))
        experts = self.encoders(input_shape, root, "expert", self.experts)
        names = ["all"] if self.one_gate else [task.name for task in tasks]
        gates = nn.ModuleDict({t: drawn(root, f"gate/{t}", lambda: Gate(input_shape, self.experts)) for t in names})
        heads = self.heads(tasks, experts[0][-1].shape, input_shape, root)
        return Mixture(nn.ModuleList(nn.Sequential(*stages) for stages in experts), gates, heads).settle(input_shape)


class Mixture(StagedModel):
    """Experts, a gate per task (or one called ``all``), heads."""

    gate_names = ("gates.",)

    def __init__(self, experts: nn.ModuleList, gates: nn.ModuleDict, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.experts, self.gates, self.heads = experts, gates, heads

    def _seen(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        return [expert(x) for expert in self.experts], x

    def forward(self, batch: Batch, ctx: Context) -> Output:  # noqa: ARG002
        seen = per_input(batch, self.tasks, self._seen)
        features = {}
        for task, (found, x) in seen.items():
            gate = self.gates[task if task in self.gates else "all"]
            features[task] = mixed(gate(x), found)
        return Output(self.predictions(features))
