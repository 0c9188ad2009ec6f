"""A small convolutional net for small images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mtlfleet.architectures.base import Backbone, Stage, backbone


@backbone("cnn")
@dataclass(frozen=True, kw_only=True)
class CNN(Backbone):
    """``depth`` blocks of 3 x 3 convolution, ReLU and 2 x 2 max-pooling, then one layer of ``width`` units.

    The first block has ``channels`` channels, each further one twice as many; an image one pixel high or wide is not
    pooled further. No normalisation: batch statistics would make the result depend on how ranks cut a batch.

    Shapes      ``[B, C, H, W]`` -> ``[B, width]``; a block is a stage, and so is the last layer.
    """

    width: int = 64
    depth: int = 2
    dropout: float = 0.0
    channels: int = 8

    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        """Raises ValueError for inputs that are not images."""
        if len(input_shape) != 3:
            raise ValueError(
                f"cnn reads images [channels, height, width], found inputs of shape {list(input_shape)}; use mlp"
            )
        entering, *size = input_shape
        found = []
        for block in range(self.depth):
            leaving = self.channels * 2**block
            convolution = nn.Sequential(nn.Conv2d(entering, leaving, 3, padding=1), nn.ReLU())
            late, pool = (leaving, *size), min(size) >= 2
            size = [side // 2 for side in size] if pool else size
            found.append(Stage(convolution, (leaving, *size), down=nn.MaxPool2d(2) if pool else None, late=late))
            entering = leaving
        last = nn.Sequential(nn.Flatten(), nn.Linear(entering * size[0] * size[1], self.width), nn.ReLU())
        found.append(Stage(last, (self.width,), down=nn.Dropout(self.dropout) if self.dropout else None))
        return found
