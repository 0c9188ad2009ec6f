"""Two real handwritten digits on one canvas."""

from __future__ import annotations

import gzip
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from mtlfleet.datasets.base import ArraySamples, Dataset, Facts, Split, Task, dataset
from mtlfleet.datasets.files import bundled, fingerprint
from mtlfleet.datasets.splits import draws, stratified

RECIPE = 1
SIDE = 8
FILE = ("sklearn", "datasets/data/digits.csv.gz")


@cache
def base_digits() -> tuple[np.ndarray, np.ndarray]:
    """(images [1797, 8, 8] float32 in [0, 1], labels [1797] int64) of the UCI test set of handwritten digits."""
    with gzip.open(bundled(*FILE), "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    return (table[:, :-1].reshape(-1, SIDE, SIDE) / 16.0).astype(np.float32), table[:, -1]


def overlay(left: np.ndarray, right: np.ndarray, shift: int) -> np.ndarray:
    """Two stacks [n, 8, 8] -> canvases [n, 1, 8 + shift, 8 + shift].

    Left stands at the top left, right at the bottom right; where they overlap the brighter ink wins.
    """
    canvas = np.zeros((len(left), 1, SIDE + shift, SIDE + shift), np.float32)
    canvas[:, 0, :SIDE, :SIDE] = left
    corner = canvas[:, 0, shift:, shift:]
    np.maximum(corner, right, out=corner)
    return canvas


@dataset("multidigits")
@dataclass(frozen=True, kw_only=True)
class Multidigits(Dataset):
    """Name the left and the right of two overlaid 8 x 8 digits: one image, two 10-way tasks, tunable conflict.

    The 1797 base digits are divided first (60/20/20 within each class) and paired only within their split, so that no
    handwritten digit is seen in two of them. The overlap, and with it how much the tasks compete for the same pixels,
    falls with ``shift``; how much they compete for the trunk is the architecture's width.

    Shapes      inputs float32 ``[n, 1, 8 + shift, 8 + shift]`` in [0, 1]; targets int64 ``[n]``.
    Source      Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (as bundled by scikit-learn); the
                overlay is MultiMNIST's: Sabour et al., Dynamic Routing Between Capsules, NeurIPS 2017.

    Parameters
    ----------
    shift:      offset of the right digit in pixels, right and down, 1 to 16; from 8 on the digits no longer touch.
    train, val, test:  how many pairs to draw for each split.
    data_seed:  of the division and the pairing; not the trial's seed.
    """

    shift: int = 2
    train: int = 5000
    val: int = 1000
    test: int = 2000
    data_seed: int = 7

    def __post_init__(self) -> None:
        if not 1 <= self.shift <= 2 * SIDE:
            raise ValueError(
                f"multidigits: shift must be 1 to {2 * SIDE} pixels (0 gives no left and right), found {self.shift}"
            )
        for name in ("train", "val", "test"):
            if getattr(self, name) < 1:
                raise ValueError(f"multidigits: {name} must be at least 1 pair, found {getattr(self, name)}")

    def facts(self) -> Facts:
        tasks = tuple(Task(name, 10, "classification", ("accuracy",), 0.1) for name in ("left", "right"))
        shape = (1, SIDE + self.shift, SIDE + self.shift)
        sizes = {"val_size": self.val, "test_size": self.test}
        return Facts(tasks, self.train, shape, fingerprint(RECIPE, asdict(self), bundled(*FILE)), sizes)

    def split(self, split: Split) -> ArraySamples:
        return _pairs(self, split)


@cache
def _pairs(params: Multidigits, split: Split) -> ArraySamples:
    images, labels = base_digits()
    own = stratified(labels, (0.6, 0.2, 0.2), params.data_seed)[split]
    rng = draws(params.data_seed, f"pairs/{split.value}")
    left, right = own[rng.randint(0, len(own), size=(2, getattr(params, split.value)))]
    targets = {"left": labels[left], "right": labels[right]}
    return ArraySamples(overlay(images[left], images[right], params.shift), targets)
