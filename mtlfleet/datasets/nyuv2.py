"""NYUv2 with three dense tasks, as MTAN distributes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtlfleet.datasets.base import Task, dataset
from mtlfleet.datasets.mtan import MtanFolder


@dataset("nyuv2")
@dataclass(frozen=True, kw_only=True)
class NYUv2(MtanFolder):
    """Thirteen classes, depth and surface normals of indoor scenes; 795 training and 654 test images of 288 x 384.

    The folder holds ``{train,val}/{image,label,depth,normal}/{i}.npy``, i from 0 on: image ``[H, W, 3]`` in [0, 1],
    label ``[H, W]`` 0 to 12 or -1, depth ``[H, W, 1]`` in metres or 0, normal ``[H, W, 3]`` of length 1 or 0. Its
    ``val`` is what the field tests on and is the test split here; a random fifth of ``train`` becomes validation.

    Shapes      inputs float32 ``[n, 3, H, W]``; segmentation int64 ``[n, H, W]``; depth ``[n, 1, H, W]``; normals
                ``[n, 3, H, W]``.
    Source      Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012; preprocessed by
                Liu, Johns & Davison, CVPR 2019 (https://github.com/lorenmt/mtan).
    Departures  The published tables select nothing and average the last ten epochs' test results; here validation
                selects. ``augmented`` interpolates normals at the rim of unknown pixels, as the source does.

    Parameters
    ----------
    root:       the folder.
    val_share:  of the training images that become validation.
    data_seed:  of that choice; the same for every method and seed.
    augmented:  training images are scaled, cut and mirrored as the source does (``augment.py``), anew in every epoch.
    """

    def folders(self) -> Mapping[str, str]:
        return {"image": "image", "segmentation": "label", "depth": "depth", "normals": "normal"}

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:
        return self.dense_tasks(known, 13)
