"""Progressive layered extraction: gates over shared and own experts at every stage of the trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Batch, Context, Output, Shape, Stage, architecture
from mtlfleet.architectures.experts import Extracting, Gate
from mtlfleet.architectures.heads import drawn
from mtlfleet.architectures.staged import StagedModel, mixed, per_input
from mtlfleet.plan.tasks import Task

SHARED = "*"


@architecture("ple")
@dataclass(frozen=True, kw_only=True)
class PLE(Extracting):
    r"""A stream per task and a shared one; at each stage a task mixes its own experts with the shared ones.

    Math        at stage l: :math:`x_t \leftarrow \sum_{e \in S \cup E_t} g_{t,e}\, f_e`, :math:`x_S \leftarrow
                \sum_{e \in S \cup E_1 \cup \ldots \cup E_T} g_{S,e}\, f_e`; task experts read :math:`x_t`, shared ones
                :math:`x_S`, a gate what its stream was. The last stage has no shared gate.
    Shapes      as hps; a stage's experts are that stage of a backbone.
    Source      Tang et al., Progressive Layered Extraction (PLE), RecSys 2020.
    Departures  Images are averaged to 4 x 4 before a gate reads them. (LibMTL leaves the shared stream out: there each
                task sends its own stream through the shared experts.)

    Parameters
    ----------
    shared_experts, task_experts:  how many experts the shared stream and each task have at every stage.
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps.
    """

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        root = int(torch.randint(2**62, ()))
        names = [task.name for task in tasks]
        streams = {
            whose: self.encoders(input_shape, root, f"expert/{whose}", count)
            for whose, count in ((SHARED, self.shared_experts), *((t, self.task_experts) for t in names))
        }
        entering, levels = input_shape, []
        depth = len(streams[SHARED][0])
        for level in range(depth):
            experts = {whose: [stages[level] for stages in made] for whose, made in streams.items()}
            gates = self._gates(experts, entering, root, level, shared=level < depth - 1)
            levels.append(Level(experts, gates))
            entering = streams[SHARED][0][level].shape
        return Layered(levels, self.heads(tasks, entering, input_shape, root)).settle(input_shape)

    def _gates(
        self, experts: dict[str, list[Stage]], entering: Shape, root: int, level: int, *, shared: bool
    ) -> dict[str, nn.Module]:
        every = sum(len(made) for made in experts.values())
        counts = {t: len(made) + self.shared_experts for t, made in experts.items() if t != SHARED}
        if shared:
            counts[SHARED] = every
        return {t: drawn(root, f"gate/{level}/{t}", partial(Gate, entering, n)) for t, n in counts.items()}


class Level(nn.Module):
    """Experts and gates of one stage. ``shared`` is the key of the shared stream."""

    def __init__(self, experts: dict[str, list[Stage]], gates: dict[str, nn.Module]) -> None:
        super().__init__()
        self.shared = nn.ModuleList(experts[SHARED])
        self.own = nn.ModuleDict({t: nn.ModuleList(made) for t, made in experts.items() if t != SHARED})
        self.gates = nn.ModuleDict({t: gate for t, gate in gates.items() if t != SHARED})
        self.shared_gate = gates.get(SHARED)

    def forward(self, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        shared = [expert(streams[SHARED]) for expert in self.shared]
        own = {t: [expert(streams[t]) for expert in made.children()] for t, made in self.own.items()}
        after = {t: mixed(self.gates[t](streams[t]), [*shared, *own[t]]) for t in own}
        if self.shared_gate is not None:
            every = [*shared, *(feature for task in sorted(own) for feature in own[task])]
            after[SHARED] = mixed(self.shared_gate(streams[SHARED]), every)
        return after


class Layered(StagedModel):
    """Levels, one after the other; an input per task is run level by level for each of them."""

    def __init__(self, levels: list[Level], heads: nn.ModuleDict) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.heads = heads

    def _role(self, name: str, tasks: list[str]) -> str:
        role = super()._role(name, tasks)
        gate = "gates." in name or "shared_gate." in name
        return f"gate:{tasks[0]}" if gate and role.startswith("task:") else "gate" if gate else role

    def _through(self, x: Tensor) -> dict[str, Tensor]:
        streams = dict.fromkeys((SHARED, *self.tasks), x)
        for level in self.levels:
            streams = level(streams)
        return streams

    def forward(self, batch: Batch, ctx: Context) -> Output:  # noqa: ARG002
        seen = per_input(batch, self.tasks, self._through)
        return Output(self.predictions({task: streams[task] for task, streams in seen.items()}))
