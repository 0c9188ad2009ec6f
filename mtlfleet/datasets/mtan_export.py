"""Dense digits as a folder in MTAN's layout, so that the loader of NYUv2 reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtlfleet.datasets.base import Split
from mtlfleet.datasets.densedigits import Densedigits


def export(data: Densedigits, root: Path) -> int:
    """Write train and validation to ``root/train`` and test to ``root/val``; how many files were written.

    Images get three equal channels. Raises FileExistsError when the folder holds parts already.
    """
    written = 0
    parts = {"train": (Split.TRAIN, Split.VAL), "val": (Split.TEST,)}
    for part, splits in parts.items():
        for kind in ("image", "label", "depth", "normal"):
            (root / part / kind).mkdir(parents=True)
        count = 0
        for split in splits:
            samples = data.split(split)
            for k in range(len(samples)):
                image = np.repeat(samples.inputs[k], 3, 0)
                y = {name: values[k] for name, values in samples.targets.items()}
                files = {
                    "image": np.moveaxis(image, 0, -1), "label": y["segmentation"].astype(np.float32),
                    "depth": np.moveaxis(y["depth"], 0, -1), "normal": np.moveaxis(y["normals"], 0, -1),
                }  # fmt: skip
                for kind, array in files.items():
                    np.save(root / part / kind / f"{count}.npy", array)
                    written += 1
                count += 1
    return written
