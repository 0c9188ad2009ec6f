"""An encoder and a mirrored decoder: a feature map as large as the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from mtlfleet.architectures.base import Backbone, Stage, backbone
from mtlfleet.architectures.heads import groups


@backbone("segnet")
@dataclass(frozen=True, kw_only=True)
class SegNet(Backbone):
    """``depth`` encoder blocks that halve the image and as many decoder blocks that double it again.

    Widths are ``width`` times 1, 2, 4, 8, 8 (64-128-256-512-512 in the source: ``width=64, depth=5``); the first two
    encoder blocks and the last two decoder blocks have two convolutions, the others three.

    Shapes      ``[B, C, H, W]`` -> ``[B, width, H, W]``; 2 depth stages; H and W are multiples of 2^depth.
    Source      Badrinarayanan, Kendall & Cipolla, SegNet, PAMI 2017, as used by Liu, Johns & Davison, End-to-End
                Multi-Task Learning with Attention, CVPR 2019.
    Departures  Decoders enlarge by bilinear interpolation, not by remembered pooling indices: a stage is a function of
                its input. ``norm`` is group normalisation by default (``batch`` is the source's, with statistics that
                depend on how ranks cut a batch; ``none``).
    """

    width: int = 64
    depth: int = 5
    dropout: float = 0.0
    norm: str = "group"

    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        """Raises ValueError for inputs that are not images of a suitable size."""
        if self.norm not in NORMS:
            raise ValueError(f"segnet: norm is {', '.join(NORMS)}; found {self.norm!r}")
        if not 1 <= self.depth <= 5:
            raise ValueError(f"segnet: depth is 1 to 5, found {self.depth}")
        if len(input_shape) != 3 or any(side % 2**self.depth for side in input_shape[1:]):
            raise ValueError(
                f"segnet of depth {self.depth} reads images [channels, height, width] whose sides are multiples of "
                f"{2**self.depth}, found inputs of shape {list(input_shape)}"
            )
        channels = [self.width * 2 ** min(level, 3) for level in range(self.depth)]
        entering, *size = input_shape
        found = []
        for level, leaving in enumerate(channels):
            late = (leaving, *size)
            size = [side // 2 for side in size]
            count = 2 if level < 2 else 3
            found.append(self._stage(entering, leaving, count, (leaving, *size), late, nn.MaxPool2d(2)))
            entering = leaving
        for level in reversed(range(self.depth)):
            leaving = channels[max(0, level - 1)]
            size = [side * 2 for side in size]
            shape = (leaving, *size)
            up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            found.append(self._stage(entering, leaving, 2 if level < 2 else 3, shape, shape, None, up))
            entering = leaving
        return found

    def _stage(
        self, entering: int, leaving: int, count: int, shape: tuple[int, ...], late: tuple[int, ...],
        down: nn.Module | None, before: nn.Module | None = None,
    ) -> Stage:  # fmt: skip
        layers = [self._convolution(entering if n == 0 else leaving, leaving) for n in range(count)]
        first = layers[0] if before is None else nn.Sequential(before, layers[0])
        tail: list[nn.Module] = [*layers[1:], *([nn.Dropout2d(self.dropout)] if self.dropout else [])]
        return Stage(first, shape, rest=nn.Sequential(*tail), down=down, late=late)

    def _convolution(self, entering: int, leaving: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(entering, leaving, 3, padding=1, bias=self.norm == "none"), NORMS[self.norm](leaving), nn.ReLU()
        )


NORMS: Mapping[str, Callable[[int], nn.Module]] = {"group": groups, "batch": nn.BatchNorm2d, "none": nn.Identity}
