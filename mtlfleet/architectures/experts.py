"""Gates over experts: what mixtures of experts have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Shape
from mtlfleet.architectures.staged import pooled, pooled_width


class Gate(nn.Module):
    """Softmax weights [B, E] over experts, from the input averaged to at most 4 x 4.

    LibMTL's gate reads every pixel: for an image it has more parameters than a small expert.
    """

    def __init__(self, shape: Shape, experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(pooled_width(shape), experts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.linear(pooled(x)), 1)
