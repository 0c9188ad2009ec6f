"""Pictures and dense labels changed together, so that every label stays true of its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mtlfleet.datasets.base import Arrays

SCALES = (1.0, 1.2, 1.5)
SMOOTH = ("image", "normals")  # interpolated; labels and depths keep values that occur


def scale_and_flip(arrays: Arrays, seed: int) -> Arrays:
    """Every picture enlarged by 1, 1.2 or 1.5 and cut to its size at a random place, and mirrored half of the time.

    Depth is divided by the scale, for what looks larger is nearer; a mirrored normal has the other x. A sample's draw
    depends on ``seed`` and its index alone: not on the batch, the rank or the order.

    Shapes  ``[n, C, H, W]``, or ``[n, H, W]`` for classes.
    Source  the augmentation of Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019.
    """
    assert isinstance(arrays.inputs, np.ndarray)
    kinds = {"image": arrays.inputs, **arrays.targets}
    made = {name: np.empty_like(values, order="C") for name, values in kinds.items()}
    for place, index in enumerate(arrays.index):
        rng = np.random.Generator(np.random.PCG64([seed, int(index)]))
        scale, corner, mirrored = rng.choice(SCALES), rng.random(2), rng.random() < 0.5
        one = cropped({name: values[place] for name, values in kinds.items()}, scale, corner)
        for name, values in (flipped(one) if mirrored else one).items():
            made[name][place] = values
    return replace(arrays, inputs=made.pop("image"), targets=made)


def flipped(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One sample seen in a mirror: columns from right to left, normals with -x."""
    turned = {name: values[..., ::-1] for name, values in sample.items()}
    if "normals" in turned:
        turned["normals"] = turned["normals"] * np.array([-1, 1, 1], turned["normals"].dtype)[:, None, None]
    return turned


def cropped(sample: Mapping[str, np.ndarray], scale: float, corner: np.ndarray) -> dict[str, np.ndarray]:
    """One sample's window of H / scale x W / scale, ``corner`` in [0, 1) of the room it has, enlarged to H x W."""
    if scale == 1:
        return dict(sample)
    size = sample["image"].shape[-2:]
    window = [int(n / scale) for n in size]
    start = [int(u * (n - w + 1)) for u, n, w in zip(corner, size, window, strict=True)]
    found = {}
    for name, values in sample.items():
        part = values[..., start[0] : start[0] + window[0], start[1] : start[1] + window[1]]
        found[name] = _enlarged(part, size) if name in SMOOTH else _repeated(part, size)
    if "depth" in found:
        found["depth"] = found["depth"] / np.float32(scale)
    return found


def _repeated(part: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Nearest neighbour: row i of H is row floor(i h / H)."""
    rows, columns = (np.arange(n) * w // n for n, w in zip(size, part.shape[-2:], strict=True))
    return part[..., rows[:, None], columns]


def _enlarged(part: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bilinear, corner on corner."""
    for axis, n in zip((-2, -1), size, strict=True):
        w = part.shape[axis]
        at = np.arange(n) * ((w - 1) / max(1, n - 1))
        low = np.minimum(at.astype(np.int64), max(0, w - 2))
        share = (at - low).astype(part.dtype)
        share = share[:, None] if axis == -2 else share
        below, above = np.take(part, low, axis), np.take(part, np.minimum(low + 1, w - 1), axis)
        part = below + (above - below) * share
    return part
