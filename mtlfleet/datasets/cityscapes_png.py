"""Cityscapes from its original pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.pictures import finding, picture, raw
from mtlfleet.datasets.prepared import Pack, Prepared, carve_groups

# The published ids of the nineteen classes, in their training order, and each one's category.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CATEGORY = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6)
KINDS = {"leftImg8bit": "leftImg8bit.png", "gtFine": "gtFine_labelIds.png", "disparity": "disparity.png"}
BASELINE, FOCUS = 0.209313, 2262.52  # metres, pixels: the left camera's, from the dataset's own calibration


@dataset("cityscapes_png")
@dataclass(frozen=True, kw_only=True)
class CityscapesPNG(Prepared):
    """Seven categories or nineteen classes and inverse depth of streets, made from the published pictures.

    The folder holds ``leftImg8bit``, ``gtFine`` and ``disparity``, each ``{train,val}/<city>/<name>_<kind>.png``. The
    published val is the test split here; whole training cities become validation.

    Math        inverse depth in 1/m = disparity / (baseline x focal length), disparity = (value - 1) / 256, none for 0.
    Shapes      inputs float32 ``[n, 3, height, width]``; segmentation int64 ``[n, height, width]``; depth ``[n, 1,
                ...]``.
    Source      Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016.
    Departures  MTAN's files were resized by code that is not published: numbers made with them are not comparable.

    Parameters
    ----------
    root:       the folder.
    classes:    7 or 19.
    height, width:  after resizing (nearest for labels and depth).
    val_share:  least share of the training pictures in the cities that become validation.
    data_seed:  of the choice of cities.
    """

    root: str
    classes: int = 7
    height: int = 128
    width: int = 256
    val_share: float = 0.2
    data_seed: int = 0

    def __post_init__(self) -> None:
        if self.classes not in (7, 19):
            raise ValueError(f"cityscapes_png: classes is 7 or 19, found {self.classes}")

    def _names(self, part: str) -> list[str]:
        """``city/name`` of every picture of a part, sorted."""
        folder = Path(self.root) / "leftImg8bit" / part
        ending = "_" + KINDS["leftImg8bit"]
        return sorted(f"{p.parent.name}/{p.name.removesuffix(ending)}" for p in folder.glob(f"*/*{ending}"))

    def _file(self, kind: str, part: str, name: str) -> Path:
        return Path(self.root) / kind / part / f"{name}_{KINDS[kind]}"

    def findings(self) -> Iterator[str]:
        for part in ("train", "val"):
            names = self._names(part)
            if not names:
                yield f"{Path(self.root) / 'leftImg8bit' / part}: no pictures"
            for name in names:
                for kind in KINDS:
                    if (wrong := finding(self._file(kind, part, name))) is not None:
                        yield wrong
        if len({name.partition("/")[0] for name in self._names("train")}) < 2:
            yield "training pictures are of one city: none can be set aside for validation"

    def pack(self) -> Mapping[Split, Pack]:
        names = self._names("train")
        cities = np.array([name.partition("/")[0] for name in names])
        train, val = carve_groups(cities, self.val_share, self.data_seed)
        return {
            Split.TRAIN: self._part("train", [names[i] for i in train]),
            Split.VAL: self._part("train", [names[i] for i in val]),
            Split.TEST: self._part("val", self._names("val")),
        }

    def _part(self, part: str, names: list[str]) -> Pack:
        size = (self.height, self.width)
        table = np.full(256, -1, np.int8)
        table[list(IDS)] = CATEGORY if self.classes == 7 else np.arange(19)
        images = np.empty((len(names), 3, *size), np.uint8)
        labels, depth = np.empty((len(names), *size), np.int8), np.empty((len(names), 1, *size), np.float32)
        for place, name in enumerate(names):
            images[place] = picture(self._file("leftImg8bit", part, name), size)
            labels[place] = table[raw(self._file("gtFine", part, name), size).astype(np.uint8)]
            value = raw(self._file("disparity", part, name), size).astype(np.float32)
            depth[place, 0] = np.where(value > 0, (value - 1) / 256 / (BASELINE * FOCUS), 0)
        return Pack(images, {"segmentation": labels, "depth": depth})

    def describe(self, packs: Mapping[Split, Pack]) -> dict[str, Any]:
        y = packs[Split.TRAIN].targets
        counts = np.bincount(y["segmentation"][y["segmentation"] >= 0].ravel())
        known = y["depth"][y["depth"] > 0].astype(np.float64)
        far = float(np.abs(known - np.median(known)).mean()) if len(known) else 1.0
        return {"chance": {"segmentation": float(counts.max() / counts.sum() / (counts > 0).sum()), "depth": far}}

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:
        chance = known["chance"]
        metrics = ("miou", "pixel_accuracy")
        return (
            Task("segmentation", self.classes, "segmentation", metrics, chance["segmentation"]),
            Task("depth", 1, "depth", ("abs_err", "rel_err"), chance["depth"]),
        )
