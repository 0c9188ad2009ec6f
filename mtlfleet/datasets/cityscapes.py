"""Cityscapes with segmentation and inverse depth, as MTAN distributes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlfleet.datasets.base import Task, dataset
from mtlfleet.datasets.mtan import MtanFolder


@dataset("cityscapes")
@dataclass(frozen=True, kw_only=True)
class Cityscapes(MtanFolder):
    """Seven or nineteen classes and inverse depth of streets; 2975 training and 500 test images of 128 x 256.

    The folder holds ``{train,val}/{image,depth,label_7,label_19}/{i}.npy`` (``label`` is read as ``label_7``): image
    ``[H, W, 3]`` in [0, 1], label ``[H, W]`` with -1 for none, depth ``[H, W, 1]`` inverse, 0 for none. ``val`` is
    what the field tests on and is the test split here; a random fifth of ``train`` (595 images) becomes validation.

    Shapes      inputs float32 ``[n, 3, H, W]``; segmentation int64 ``[n, H, W]``; depth float32 ``[n, 1, H, W]``.
    Source      Cordts et al., The Cityscapes Dataset, CVPR 2016; preprocessed by Liu, Johns & Davison, CVPR 2019.
    Departures  As for nyuv2. Relative errors near 27 in published tables are percent of tiny inverse depths: here 0.27.

    Parameters
    ----------
    root:       the folder.
    classes:    7 or 19.
    val_share:  of the training images that become validation.
    data_seed:  of that choice; the same for every method and seed.
    augmented:  training images are scaled, cut and mirrored (``augment.py``), anew in every epoch.
    """

    classes: int = 7

    def __post_init__(self) -> None:
        if self.classes not in (7, 19):
            raise ValueError(f"cityscapes: classes is 7 or 19, found {self.classes}")

    def folders(self) -> Mapping[str, str]:
        label = f"label_{self.classes}"
        if self.classes == 7 and not (Path(self.root) / "train" / label).is_dir():
            label = "label" if (Path(self.root) / "train" / "label").is_dir() else label
        return {"image": "image", "segmentation": label, "depth": "depth"}

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:
        return self.dense_tasks(known, self.classes)
