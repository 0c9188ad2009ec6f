"""Folders of .npy files as MTAN distributes NYUv2 and Cityscapes: ``{train,val}/{image,label,depth,...}/{i}.npy``."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mtlfleet.datasets.augment import scale_and_flip
from mtlfleet.datasets.base import Arrays, Samples, Split, Task
from mtlfleet.datasets.prepared import Pack, Prepared, carve
from mtlfleet.errors import EnvironmentProblem

NORMALS = ("angle_mean", "angle_median", "within_11_25", "within_22_5", "within_30")


def read_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """(shape, dtype) of a .npy file, from its header. Raises ValueError for one that is not, or is cut short."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
        wants = file.tell() + int(np.prod(shape)) * dtype.itemsize
    size = path.stat().st_size
    if size < wants:
        raise ValueError(f"cut short: {size:,} bytes where its header promises {wants:,}")
    return shape, dtype


@dataclass(frozen=True, kw_only=True)
class MtanFolder(Prepared):
    """Dense tasks in the MTAN layout. A subclass says which folders there are and what they mean."""

    root: str
    val_share: float = 0.2
    data_seed: int = 0
    augmented: bool = False
    free: ClassVar[tuple[str, ...]] = ("augmented",)
    counts: ClassVar[tuple[int, int]] = (0, 0)  # of the published train and val folders

    @abstractmethod
    def folders(self) -> Mapping[str, str]:
        """``image`` and each task -> the name of its folder."""

    def findings(self) -> Iterator[str]:
        """Names each file that is missing, cut short, of another shape, or holds impossible values."""
        size: tuple[int, ...] | None = None
        for part in ("train", "val"):
            if not (Path(self.root) / part / "image").is_dir():
                yield f"{Path(self.root) / part / 'image'}: there is no such folder"
                continue
            count = self.count(part)
            for kind in self.folders():
                for i in range(count):
                    path = self.file(part, kind, i)
                    try:
                        shape, dtype = read_header(path)
                    except FileNotFoundError:
                        yield f"{path}: missing"
                        continue
                    except (ValueError, OSError, EOFError) as error:
                        yield f"{path}: {error}"
                        continue
                    size = size or shape[:2]
                    wants = (*size, *_channels(kind))
                    if shape != wants and not (kind == "segmentation" and shape == (*size, 1)):
                        yield f"{path}: shape {list(shape)}, expected {list(wants)}"
                    elif dtype.kind not in "fiu":
                        yield f"{path}: holds {dtype}, expected numbers"

    def count(self, part: str) -> int:
        """One more than the largest number among a part's files of any kind: a gap is a missing file."""
        numbers = [
            int(path.stem)
            for kind in self.folders()
            for path in (Path(self.root) / part / self.folders()[kind]).glob("*.npy")
            if path.stem.isdigit()
        ]
        return max(numbers, default=-1) + 1

    def file(self, part: str, kind: str, i: int) -> Path:
        return Path(self.root) / part / self.folders()[kind] / f"{i}.npy"

    def pack(self) -> Mapping[Split, Pack]:
        raise NotImplementedError("the files are read where they are")

    def write(self, folder: Path) -> dict[str, Any]:  # noqa: ARG002
        """Nothing but a fingerprint over every file's bytes, and what a constant gets on the training split."""
        counts = {part: self.count(part) for part in ("train", "val")}
        sums = hashlib.sha256()
        for part, count in counts.items():
            for kind in self.folders():
                for i in range(count):
                    sums.update(self.file(part, kind, i).read_bytes())
        train, val = self.carved(counts["train"])
        shape, _ = read_header(self.file("train", "image", 0))
        return {
            "dataset": self.name, "fingerprint": sums.hexdigest(), "counts": counts,
            "sizes": {"train": len(train), "val": len(val), "test": counts["val"]},
            "input_shape": [3, *shape[:2]], "inputs_per_task": False, "chance": self._chance(train),
        }  # fmt: skip

    def carved(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        return carve(count, self.val_share, self.data_seed)

    def _chance(self, train: np.ndarray) -> dict[str, float]:
        """The commonest class, the median depth and the normal (0, 0, 1) on at most 200 training images."""
        found: dict[str, float] = {}
        arrays = FolderSamples(self, "train", train).fetch(np.arange(min(200, len(train))))
        for kind, y in arrays.targets.items():
            if kind == "segmentation":
                counts = np.bincount(y[y >= 0].ravel())
                found[kind] = float(counts.max() / counts.sum() / max(1, (counts > 0).sum()))
            elif kind == "depth":
                known = y[y > 0].astype(np.float64)
                found[kind] = float(np.abs(known - np.median(known)).mean()) if len(known) else 1.0
            else:
                there = (y != 0).any(1)
                straight = np.clip(y[:, 2][there].astype(np.float64), -1, 1)
                found[kind] = float(np.degrees(np.arccos(straight)).mean()) if there.any() else 90.0
        return found

    def dense_tasks(self, known: Mapping[str, Any], classes: int) -> tuple[Task, ...]:
        chance = known["chance"]
        made = {
            "segmentation": lambda: Task("segmentation", classes, "segmentation", ("miou", "pixel_accuracy"),
                                         chance["segmentation"]),
            "depth": lambda: Task("depth", 1, "depth", ("abs_err", "rel_err"), chance["depth"]),
            "normals": lambda: Task("normals", 3, "normals", NORMALS, chance["normals"]),
        }  # fmt: skip
        return tuple(made[kind]() for kind in self.folders() if kind != "image")

    def augment(self, arrays: Arrays, seed: int) -> Arrays:
        return scale_and_flip(arrays, seed) if self.augmented else arrays

    def split(self, split: Split) -> Samples:
        return _folder(self, split, self.known()["fingerprint"])


def _channels(kind: str) -> tuple[int, ...]:
    return {"image": (3,), "segmentation": (), "depth": (1,), "normals": (3,)}[kind]


@cache
def _folder(data: MtanFolder, split: Split, fingerprint: str) -> FolderSamples:  # noqa: ARG001
    counts = data.known()["counts"]
    if split is Split.TEST:
        return FolderSamples(data, "val", np.arange(counts["val"]))
    train, val = data.carved(counts["train"])
    return FolderSamples(data, "train", train if split is Split.TRAIN else val)


@dataclass(frozen=True, eq=False)
class FolderSamples:
    """Samples by number: a batch opens its own files."""

    data: MtanFolder
    part: str
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def fetch(self, index: np.ndarray) -> Arrays:
        chosen = self.numbers[index]
        kinds = {kind: self._stack(kind, chosen) for kind in self.data.folders()}
        inputs = kinds.pop("image")
        return Arrays(inputs, kinds, index.astype(np.int64))

    def _stack(self, kind: str, numbers: np.ndarray) -> np.ndarray:
        files = [self.data.file(self.part, kind, int(i)) for i in numbers]
        try:
            first = np.load(files[0]) if files else np.zeros((0, 0, *_channels(kind)))
            found = np.empty((len(files), *first.shape), np.int64 if kind == "segmentation" else np.float32)
            for place, file in enumerate(files):
                found[place] = first if place == 0 else np.load(file)
        except (OSError, ValueError) as error:
            raise EnvironmentProblem(
                f"{self.data.name}: a file cannot be read: {error}",
                help=f"mtlfleet datasets check {self.data.name} --root {self.data.root}",
            ) from None
        if kind == "segmentation":
            return found[..., 0] if found.ndim == 4 else found
        return np.moveaxis(found, -1, 1)
