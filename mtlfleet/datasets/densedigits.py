"""Segmentation, depth and surface normals of real handwritten digits, drawn in front of each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from mtlfleet.datasets.base import ArraySamples, Dataset, Facts, Split, Task, dataset
from mtlfleet.datasets.files import bundled, fingerprint
from mtlfleet.datasets.multidigits import FILE, base_digits
from mtlfleet.datasets.splits import draws, stratified

RECIPE = 1
SIDE, DIGIT, DIGITS = 24, 16, 2  # pixels of the canvas and of a digit, digits per canvas
GROUPS = np.array([1, 2, 3, 3, 2, 3, 1, 2, 1, 1])  # digits with a ring, of strokes, of arcs
INK = 0.25  # from here on a pixel belongs to a digit
RELIEF = 3.0  # how steep ink rises, in pixels


@dataset("densedigits")
@dataclass(frozen=True, kw_only=True)
class Densedigits(Dataset):
    """Say for every pixel which kind of digit it is, how far away, and how its surface lies: three dense tasks.

    Two digits of a split's own base digits, enlarged to 16 x 16, stand at random places of a 24 x 24 canvas at depths
    drawn from [0.2, 1]; the nearer one covers the other. A pixel's brightness is its ink times 1.2 - depth, plus noise;
    normals are those of the ink seen as a height. The background has no depth and no normal.

    Shapes      inputs float32 ``[n, 1, 24, 24]``; segmentation int64 ``[n, 24, 24]`` (0 is background; four classes, or
                eleven when ``hard``); depth float32 ``[n, 1, 24, 24]``, 0 where none; normals float32
                ``[n, 3, 24, 24]``, of length 1, or 0 where none.
    Source      Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (as bundled by scikit-learn); the
                tasks and their layout are those of NYUv2 in Liu et al., CVPR 2019.

    Parameters
    ----------
    hard:       tell all ten digits apart instead of rings, strokes and arcs.
    train, val, test:  how many canvases to draw for each split.
    data_seed:  of the division of the base digits and of the canvases; not the trial's seed.
    """

    hard: bool = False
    train: int = 1000
    val: int = 200
    test: int = 300
    data_seed: int = 7

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            if getattr(self, name) < 1:
                raise ValueError(f"densedigits: {name} must be at least 1 canvas, found {getattr(self, name)}")

    def facts(self) -> Facts:
        classes = 11 if self.hard else 4
        chance = _chance(self)
        tasks = (
            Task("segmentation", classes, "segmentation", ("miou", "pixel_accuracy"), chance[0]),
            Task("depth", 1, "depth", ("abs_err", "rel_err"), chance[1]),
            Task("normals", 3, "normals", NORMALS, chance[2]),
        )
        sizes = {"val_size": self.val, "test_size": self.test}
        mark = fingerprint(RECIPE, asdict(self), bundled(*FILE))
        return Facts(tasks, self.train, (1, SIDE, SIDE), mark, sizes)

    def split(self, split: Split) -> ArraySamples:
        return _canvases(self, split)


NORMALS = ("angle_mean", "angle_median", "within_11_25", "within_22_5", "within_30")


def relief(ink: np.ndarray) -> np.ndarray:
    """[3, h, w] unit normals of ink [h, w] seen as a height."""
    down, right = np.gradient(ink * RELIEF)
    normal = np.stack((-right, -down, np.ones_like(ink)))
    return np.asarray(normal / np.linalg.norm(normal, axis=0))


@cache
def _canvases(params: Densedigits, split: Split) -> ArraySamples:
    images, labels = base_digits()
    own = stratified(labels, (0.6, 0.2, 0.2), params.data_seed)[split]
    rng = draws(params.data_seed, f"canvases/{split.value}")
    n = getattr(params, split.value)
    chosen = own[rng.randint(0, len(own), size=(n, DIGITS))]
    places = rng.randint(0, SIDE - DIGIT + 1, size=(n, DIGITS, 2))
    depths = rng.uniform(0.2, 1.0, size=(n, DIGITS))
    image = rng.standard_normal((n, 1, SIDE, SIDE)) * 0.03
    segments = np.zeros((n, SIDE, SIDE), np.int64)
    depth, normals = np.zeros((n, 1, SIDE, SIDE)), np.zeros((n, 3, SIDE, SIDE))
    for i in range(n):
        for k in np.argsort(-depths[i]):  # the farthest first
            ink = np.kron(images[chosen[i, k]], np.ones((2, 2)))
            y, x = places[i, k]
            mask, window = ink >= INK, (slice(y, y + DIGIT), slice(x, x + DIGIT))
            label = labels[chosen[i, k]] + 1 if params.hard else GROUPS[labels[chosen[i, k]]]
            image[i, 0][window][mask] = (ink * (1.2 - depths[i, k]))[mask]
            segments[i][window][mask] = label
            depth[i, 0][window][mask] = depths[i, k]
            normals[i][:, window[0], window[1]][:, mask] = relief(ink)[:, mask]
    targets = {"segmentation": segments, "depth": depth.astype(np.float32), "normals": normals.astype(np.float32)}
    return ArraySamples(image.astype(np.float32), targets)


@cache
def _chance(params: Densedigits) -> tuple[float, float, float]:
    """What background everywhere, the median depth and a normal towards the viewer get on the training split."""
    targets = _canvases(params, Split.TRAIN).targets
    segments, depth, normals = targets["segmentation"], targets["depth"], targets["normals"]
    known = depth[depth > 0].astype(np.float64)
    there = (normals != 0).any(1)
    angles = np.degrees(np.arccos(np.clip(normals[:, 2][there].astype(np.float64), -1, 1)))
    miou = float((segments == 0).mean() / len(np.unique(segments)))
    return miou, float(np.abs(known - np.median(known)).mean()), float(angles.mean())
