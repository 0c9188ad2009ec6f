"""From a trunk's features to a task's prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlfleet.architectures.base import Shape
from mtlfleet.plan.streams import stream
from mtlfleet.plan.tasks import DENSE, Task

T = TypeVar("T")

ATROUS = (12, 24, 36)  # DeepLab's dilation rates at an output stride of 8


def drawn(root: int, address: str, make: Callable[[], T]) -> T:
    """What ``make`` builds, drawn from (root, address) alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(root, address))
        return make()


def groups(channels: int, most: int = 8) -> nn.GroupNorm:
    """Normalisation over groups of channels of one sample: unlike batch statistics, it does not depend on how ranks cut
    a batch."""
    return nn.GroupNorm(next(n for n in range(min(most, channels), 0, -1) if channels % n == 0), channels)


class DenseHead(nn.Module):
    """A prediction for every pixel: layers on the trunk's map, then bilinear resizing to the image's size."""

    def __init__(self, layers: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.layers = layers
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        if found.shape[-2:] == self.size:
            return found
        return F.interpolate(found, self.size, mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1 x 1, three dilated 3 x 3 and a global branch, joined by 1 x 1.

    Source      Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017 (DeepLabv3).
    Departures  Group normalisation in place of batch normalisation; no dropout after the join.
    """

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()

        def block(*layers: nn.Module) -> nn.Sequential:
            return nn.Sequential(*layers, groups(leaving), nn.ReLU())

        self.branches = nn.ModuleList(
            [
                block(nn.Conv2d(entering, leaving, 1, bias=False)),
                *(block(nn.Conv2d(entering, leaving, 3, padding=r, dilation=r, bias=False)) for r in ATROUS),
            ]
        )
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), block(nn.Conv2d(entering, leaving, 1, bias=False)))
        self.join = block(nn.Conv2d((len(ATROUS) + 2) * leaving, leaving, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        found = [branch(x) for branch in self.branches]
        found.append(self.whole(x).expand(-1, -1, *x.shape[-2:]))
        joined: Tensor = self.join(torch.cat(found, 1))
        return joined


def head(task: Task, shape: Shape, input_shape: Shape, kind: str = "plain", hidden: int = 0) -> nn.Module:
    """The head of a task on features of ``shape``.

    Vectors: one layer, or two with ``hidden`` units between. Maps are averaged over space for a task that is not dense.
    A dense task: ``plain`` is a 3 x 3 convolution (if ``hidden``) and a 1 x 1 one, ``deeplab`` a pyramid of ``hidden``
    (256 if 0) channels and a 1 x 1 one.

    Raises ValueError for a dense task on a vector.
    """
    if task.kind in DENSE:
        if len(shape) != 3 or len(input_shape) != 3:
            raise ValueError(
                f"task {task.name} predicts every pixel, but the backbone gives features of shape {list(shape)}: "
                "take one that gives maps (segnet, resnet)"
            )
        size = (input_shape[1], input_shape[2])
        if kind == "deeplab":
            middle = hidden or 256
            return DenseHead(nn.Sequential(Pyramid(shape[0], middle), nn.Conv2d(middle, task.outputs, 1)), size)
        before: list[nn.Module] = [nn.Conv2d(shape[0], hidden, 3, padding=1), nn.ReLU()] if hidden else []
        return DenseHead(nn.Sequential(*before, nn.Conv2d(hidden or shape[0], task.outputs, 1)), size)
    vector: nn.Module = nn.Linear(shape[0], task.outputs)
    if hidden:
        vector = nn.Sequential(nn.Linear(shape[0], hidden), nn.ReLU(), nn.Linear(hidden, task.outputs))
    return vector if len(shape) == 1 else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), vector)
