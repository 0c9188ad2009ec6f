"""Hard parameter sharing: one trunk, one head per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mtlfleet import registry
from mtlfleet.architectures.base import Architecture, Batch, Context, Output, architecture
from mtlfleet.plan.streams import stream
from mtlfleet.plan.tasks import Task


@architecture("hps")
@dataclass(frozen=True, kw_only=True)
class HPS(Architecture):
    r"""All tasks read one representation; each has its own head. With one task, its single-task network.

    Math        :math:`z = f(x; \theta)`, :math:`\hat y_t = h_t(z)`.
    Shapes      inputs ``[B, ...]`` -> z ``[B, width]`` -> predictions ``[B, outputs_t]``.
    Source      Caruana, Multitask Learning, Machine Learning 1997.
    Departures  The trunk's first weights depend on the seed alone and a head's on the seed and the task's name, so that
                a multi-task model and its single-task references start from the same numbers.

    Parameters
    ----------
    backbone:     registry name of the trunk: ``mlp`` or ``cnn``.
    width, depth, dropout:  the trunk's; see the backbone.
    head_hidden:  units of a hidden layer in each head; 0 for linear heads.
    """

    backbone: str = "mlp"
    width: int = 64
    depth: int = 2
    dropout: float = 0.0
    head_hidden: int = 0

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("depth", 0), ("head_hidden", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"hps: {name} must be at least {least}, found {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"hps: dropout must be in [0, 1), found {self.dropout}")

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        kind = registry.load("backbone", self.backbone)
        trunk, width = kind(width=self.width, depth=self.depth, dropout=self.dropout).build(input_shape)
        root = int(torch.randint(2**62, ()))
        return HardSharing(trunk, {task.name: self._head(task, width, root) for task in tasks})

    def _head(self, task: Task, width: int, root: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream(root, f"head/{task.name}"))
            if not self.head_hidden:
                return nn.Linear(width, task.outputs)
            return nn.Sequential(
                nn.Linear(width, self.head_hidden), nn.ReLU(), nn.Linear(self.head_hidden, task.outputs)
            )


class HardSharing(nn.Module):
    """A trunk and its heads, by task name."""

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(dict(heads))

    def forward(self, batch: Batch, ctx: Context) -> Output:  # noqa: ARG002
        z = self.trunk(batch.inputs)
        return Output({name: head(z) for name, head in self.heads.items()}, {"shared": z})

    def roles(self) -> dict[str, str]:
        """Each parameter's role: ``shared``, or ``task:<t>`` for those that only task t's loss reaches."""
        return {name: _role(name) for name, _ in self.named_parameters()}


def _role(name: str) -> str:
    place, part, *_ = name.split(".")
    return f"task:{part}" if place == "heads" else "shared"
