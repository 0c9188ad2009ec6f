"""Residual networks, dilated for dense tasks, with weights from a file that is already there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Backbone, Stage, backbone
from mtlfleet.architectures.heads import groups
from mtlfleet.errors import EnvironmentProblem

LAYERS: Mapping[int, tuple[int, ...]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
Norm = Callable[[int], nn.Module]


class FrozenNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics and the affine map of a weights' file: nothing of it moves."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        del self.weight, self.bias
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    def train(self, mode: bool = True) -> FrozenNorm:  # noqa: ARG002
        super().train(False)
        return self


NORMS: Mapping[str, Norm] = {"group": partial(groups, most=32), "batch": nn.BatchNorm2d, "frozen": FrozenNorm}


class Block(nn.Module):
    """Two 3 x 3 convolutions, or a bottleneck of 1 x 1, 3 x 3, 1 x 1, beside a shortcut."""

    def __init__(self, entering: int, middle: int, leaving: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.deep = leaving != middle
        spread = {"padding": dilation, "dilation": dilation, "bias": False}
        if self.deep:
            self.conv1, self.bn1 = nn.Conv2d(entering, middle, 1, bias=False), norm(middle)
            self.conv2, self.bn2 = nn.Conv2d(middle, middle, 3, stride, **spread), norm(middle)  # type: ignore[arg-type]
            self.conv3, self.bn3 = nn.Conv2d(middle, leaving, 1, bias=False), norm(leaving)
        else:
            self.conv1, self.bn1 = nn.Conv2d(entering, middle, 3, stride, **spread), norm(middle)  # type: ignore[arg-type]
            self.conv2, self.bn2 = nn.Conv2d(middle, leaving, 3, 1, **spread), norm(leaving)  # type: ignore[arg-type]
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or entering != leaving:
            self.downsample = nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), norm(leaving))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.deep:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + self.downsample(x))


@backbone("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNet(Backbone):
    """ResNet-18, -34 or -50 without its classifier: a stem and four groups of residual blocks, each a stage.

    Shapes      ``[B, C, H, W]`` -> ``[B, 8 width, h, w]`` (32 width for 50); h = H/32, or H/8 when ``dilated``.
    Source      He et al., Deep Residual Learning, CVPR 2016; dilated as in Yu, Koltun & Funkhouser, CVPR 2017 and
                LibMTL.
    Departures  ``norm`` is group normalisation by default. ``batch`` is the source's: its statistics are of a rank's
                part of the batch, and running ones are averaged over ranks before evaluations. ``frozen`` keeps a
                file's.

    Parameters
    ----------
    depth:          18, 34 or 50.
    width:          channels of the stem, 64 in the source.
    dropout:        of whole channels, after the last group.
    dilated:        the last two groups do not shrink the map but spread their kernels.
    weights_path:   a file of weights, ``.safetensors`` or a pickle of tensors only, named as torchvision names them;
                    without one, weights are drawn. Nothing is ever downloaded. Needs norm ``batch`` or ``frozen``.
    weights_sha256: SHA-256 that the file must have. It belongs in a study: a path does not say which weights they are.
    """

    width: int = 64
    depth: int = 18
    dropout: float = 0.0
    norm: str = "group"
    dilated: bool = False
    weights_path: str | None = None
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.depth not in LAYERS:
            raise ValueError(f"resnet: depth is 18, 34 or 50, found {self.depth}")
        if self.norm not in NORMS:
            raise ValueError(f"resnet: norm is {', '.join(NORMS)}; found {self.norm!r}")
        if self.weights_path and self.norm == "group":
            raise ValueError("resnet: weights made with batch normalisation need norm batch or frozen, found 'group'")
        if self.norm == "frozen" and not self.weights_path:
            raise ValueError("resnet: norm frozen keeps the statistics of weights_path, and there is none")

    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        """Raises ValueError for inputs that are no images, EnvironmentProblem for a weights' file that does not fit."""
        if len(input_shape) != 3:
            raise ValueError(f"resnet reads images [channels, height, width], found shape {list(input_shape)}")
        norm, size = NORMS[self.norm], [-(-side // 2) for side in input_shape[1:]]
        stem = nn.Sequential()
        stem.add_module("conv1", nn.Conv2d(input_shape[0], self.width, 7, 2, 3, bias=False))
        stem.add_module("bn1", norm(self.width))
        stem.add_module("relu", nn.ReLU())
        late = (self.width, *size)
        size = [-(-side // 2) for side in size]
        found = [Stage(stem, (self.width, *size), down=nn.MaxPool2d(3, 2, 1), late=late)]
        entering, spread = self.width, 1
        for group, count in enumerate(LAYERS[self.depth]):
            stride, before = (1 if group == 0 else 2), spread
            if self.dilated and group >= 2:
                stride, spread = 1, spread * 2
            size = [-(-side // stride) for side in size]
            middle = self.width * 2**group
            leaving = middle * (4 if self.depth == 50 else 1)
            blocks = [
                Block(entering if n == 0 else leaving, middle, leaving, stride if n == 0 else 1,
                      before if n == 0 else spread, norm)
                for n in range(count)
            ]  # fmt: skip
            down = nn.Dropout2d(self.dropout) if self.dropout and group == 3 else None
            found.append(Stage(nn.Sequential(*blocks[:-1]), (leaving, *size), rest=blocks[-1], down=down))
            entering = leaving
        if self.weights_path:
            self._load(found)
        return found

    def _load(self, stages: list[Stage]) -> None:
        path = Path(self.weights_path or "")
        if not path.is_file():
            raise EnvironmentProblem(
                f"there are no weights at {path}", help="weights are never downloaded: put them there"
            )
        if self.weights_sha256:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.weights_sha256:
                raise EnvironmentProblem(f"{path} has SHA-256 {found}, the study names {self.weights_sha256}")
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            given = load_file(path)
        else:
            given = torch.load(path, weights_only=True, map_location="cpu")
        renamed = {self._place(name): value for name, value in given.items() if not name.startswith("fc.")}
        missing, strange = nn.ModuleList(stages).load_state_dict(renamed, strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        strange = [name for name in strange if not name.endswith("num_batches_tracked")]
        if missing or strange:
            raise EnvironmentProblem(
                f"{path} does not hold the weights of a ResNet-{self.depth}",
                notes=[f"lacking: {', '.join(missing[:3]) or 'none'}", f"unknown: {', '.join(strange[:3]) or 'none'}"],
            )

    def _place(self, name: str) -> str:
        """Our name of a torchvision parameter."""
        found = re.match(r"layer(\d)\.(\d+)\.(.+)", name)
        if found is None:
            return f"0.first.{name}"
        group, block, rest = int(found[1]), int(found[2]), found[3]
        last = LAYERS[self.depth][group - 1] - 1
        return f"{group}.rest.{rest}" if block == last else f"{group}.first.{block}.{rest}"
