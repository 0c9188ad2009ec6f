"""Fully connected features."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from mtlfleet.architectures.base import Backbone, backbone


@backbone("mlp")
@dataclass(frozen=True, kw_only=True)
class MLP(Backbone):
    """Flatten, then ``depth`` layers of ``width`` units, each with ReLU and dropout.

    Shapes      ``[B, *input_shape]`` -> ``[B, width]``.
    """

    width: int = 64
    depth: int = 2
    dropout: float = 0.0

    def build(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        layers: list[nn.Module] = [nn.Flatten()]
        entering = math.prod(input_shape)
        for _ in range(self.depth):
            layers += [nn.Linear(entering, self.width), nn.ReLU()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            entering = self.width
        return nn.Sequential(*layers), entering
