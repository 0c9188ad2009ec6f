"""Gates over experts: what mixtures of experts have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Shape
from mtlfleet.architectures.staged import Staged, pooled, pooled_width


@dataclass(frozen=True, kw_only=True)
class Extracting(Staged):
    """Experts that all tasks share beside a task's own: fields of customized gates and of layers of them."""

    shared_experts: int = 1
    task_experts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared_experts < 1 or self.task_experts < 1:
            raise ValueError(f"{self.name}: shared_experts and task_experts must be at least 1")


class Gate(nn.Module):
    """Softmax weights [B, E] over experts, from the input averaged to at most 4 x 4.

    LibMTL's gate reads every pixel: for an image it has more parameters than a small expert.
    """

    def __init__(self, shape: Shape, experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(pooled_width(shape), experts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.linear(pooled(x)), 1)
