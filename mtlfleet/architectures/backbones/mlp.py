"""Fully connected features."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from mtlfleet.architectures.base import Backbone, Stage, backbone


@backbone("mlp")
@dataclass(frozen=True, kw_only=True)
class MLP(Backbone):
    """Flatten, then ``depth`` layers of ``width`` units, each with ReLU and dropout; a layer is a stage.

    Shapes      ``[B, *input_shape]`` -> ``[B, width]``.
    """

    width: int = 64
    depth: int = 2
    dropout: float = 0.0

    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        entering = math.prod(input_shape)
        if not self.depth:
            return [Stage(nn.Flatten(), (entering,))]
        found = []
        for layer in range(self.depth):
            first = [nn.Linear(entering, self.width), nn.ReLU()]
            down = nn.Dropout(self.dropout) if self.dropout else None
            found.append(Stage(nn.Sequential(*(first if layer else [nn.Flatten(), *first])), (self.width,), down=down))
            entering = self.width
        return found
