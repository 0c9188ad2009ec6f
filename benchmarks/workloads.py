"""Six kinds of trunk with K linear heads, and synthetic batches for them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTH = 64


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm and a skip."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.GroupNorm(4, outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.GroupNorm(4, outside),
        )
        self.skip = nn.Identity() if inside == outside and stride == 1 else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class Mean(nn.Module):
    """[B, T, D] -> [B, D]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def mlp(width: int, depth: int = 4) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers)


def convolutions() -> nn.Module:
    sizes = (3, 32, 64, 128)
    layers: list[nn.Module] = []
    for inside, outside in pairwise(sizes):
        layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 512), nn.ReLU())


def late_convolutions() -> nn.Module:
    sizes = (3, 64, 256, 512, 512)
    layers: list[nn.Module] = []
    for inside, outside in pairwise(sizes):
        layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def residual() -> nn.Module:
    stages = [Residual(a, b, s) for a, b, s in ((16, 16, 1), (16, 32, 2), (32, 64, 2), (64, 128, 2), (128, 128, 1))]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), Mean())


# name -> (trunk, shape of one input, width of the representation, samples per rank)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "mlp-41k": (lambda: mlp(101), (101,), 101, 64),
    "mlp-0.9M": (lambda: mlp(480), (480,), 480, 64),
    "mlp-4M": (lambda: mlp(1024), (1024,), 1024, 32),
    "mlp-4M-b128": (lambda: mlp(1024), (1024,), 1024, 128),
    "mlp-19M": (lambda: mlp(2176), (2176,), 2176, 64),
    "cnn-1.1M": (convolutions, (3, 32, 32), 512, 32),
    "cnn-3.7M": (late_convolutions, (3, 32, 32), 512, 8),
    "resnet-0.6M": (residual, (3, 32, 32), 128, 8),
    "transformer-1.2M": (transformer, (32, 128), 128, 8),
}


class MultiTask(nn.Module):
    """A trunk and K heads; gives the losses by task and the representation."""

    def __init__(self, kind: str, tasks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        build, self.shape, width, self.batch = MODELS[kind]
        self.trunk = build()
        self.heads = nn.ModuleList([nn.Linear(width, 4) for _ in range(tasks)])

    def draw(self, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs [B, ...] and targets [B, 4]."""
        drawn = torch.Generator().manual_seed(seed)
        return torch.randn(self.batch, *self.shape, generator=drawn), torch.randn(self.batch, 4, generator=drawn)

    def forward(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        z = self.trunk(x)
        losses = {f"t{k:02d}": (head(z) - (k + 1) * y).square().mean() for k, head in enumerate(self.heads)}
        return losses, z

    @property
    def shared(self) -> list[nn.Parameter]:
        """The trunk's parameters."""
        return list(self.trunk.parameters())
