"""A small convolutional net for small images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mtlfleet.architectures.base import Backbone, backbone


@backbone("cnn")
@dataclass(frozen=True, kw_only=True)
class CNN(Backbone):
    """``depth`` blocks of 3 x 3 convolution, ReLU and 2 x 2 max-pooling, then one layer of ``width`` units.

    The first block has ``channels`` channels, each further one twice as many; an image one pixel high or wide is not
    pooled further. No normalisation: batch statistics would make the result depend on how ranks cut a batch.

    Shapes      ``[B, C, H, W]`` -> ``[B, width]``.
    """

    width: int = 64
    depth: int = 2
    dropout: float = 0.0
    channels: int = 8

    def build(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """Raises ValueError for inputs that are not images."""
        if len(input_shape) != 3:
            raise ValueError(
                f"cnn reads images [channels, height, width], found inputs of shape {list(input_shape)}; use mlp"
            )
        entering, *size = input_shape
        layers: list[nn.Module] = []
        for block in range(self.depth):
            leaving = self.channels * 2**block
            layers += [nn.Conv2d(entering, leaving, 3, padding=1), nn.ReLU()]
            if min(size) >= 2:
                layers.append(nn.MaxPool2d(2))
                size = [side // 2 for side in size]
            entering = leaving
        layers += [nn.Flatten(), nn.Linear(entering * size[0] * size[1], self.width), nn.ReLU()]
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers), self.width
