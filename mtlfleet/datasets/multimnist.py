"""MultiMNIST and MultiFashion, made from the IDX files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.prepared import Pack, Prepared
from mtlfleet.datasets.splits import draws
from mtlfleet.errors import EnvironmentProblem

FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
         "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file, also with ``.gz`` at its end. Raises EnvironmentProblem for anything else."""
    packed = path.with_name(path.name + ".gz")
    try:
        data = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        if not packed.is_file():
            raise EnvironmentProblem(f"{path}: missing, and so is {packed.name}") from None
        raise EnvironmentProblem(f"{packed}: {error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise EnvironmentProblem(f"{path}: no IDX file of bytes (starts with {data[:4]!r})")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    body = data[4 + 4 * data[3] :]
    if len(body) != int(np.prod(shape)):
        raise EnvironmentProblem(f"{path}: {len(body):,} bytes of {list(shape)}: cut short, or too long")
    return np.frombuffer(body, np.uint8).reshape(shape)


@dataset("multimnist")
@dataclass(frozen=True, kw_only=True)
class MultiMNIST(Prepared):
    """Name the left and the right of two overlaid digits, or pieces of clothing: two ten-way tasks on one image.

    The folder holds the four IDX files of MNIST, or of Fashion-MNIST, as published (``train-images-idx3-ubyte``, ...,
    with or without ``.gz``). Two 28 x 28 images stand on a 36 x 36 canvas, the right one 6 pixels right and down, the
    brighter pixel wins, and the canvas is reduced to 28 x 28 by nearest pixels. The last 10,000 training images are
    set aside for validation before any pair is made: no digit is seen in two splits.

    Shapes      inputs float32 ``[n, 1, 28, 28]`` in [0, 1]; targets int64 ``[n]``.
    Source      Sabour, Frosst & Hinton, NeurIPS 2017; sizes and canvas of Sener & Koltun, NeurIPS 2018 and Kurin et
                al., NeurIPS 2022.
    Departures  Pairs are drawn from ``data_seed``, where the released code draws with numpy's global generator: its
                data differ from run to run, here a fingerprint stands for them.

    Parameters
    ----------
    root:       the folder.
    train, val, test:  how many pairs; 50,000, 10,000 and 10,000 in the source.
    data_seed:  of the pairs.
    """

    root: str
    train: int = 50_000
    val: int = 10_000
    test: int = 10_000
    data_seed: int = 0

    def findings(self) -> Iterator[str]:
        for names in FILES.values():
            for name in names:
                try:
                    found = read_idx(Path(self.root) / name)
                except EnvironmentProblem as error:
                    yield error.message
                    continue
                wants = (28, 28) if "idx3" in name else ()
                if found.shape[1:] != wants:
                    yield f"{Path(self.root) / name}: images of {list(found.shape[1:])}, expected {list(wants)}"

    def pack(self) -> Mapping[Split, Pack]:
        base = {part: tuple(read_idx(Path(self.root) / name) for name in names) for part, names in FILES.items()}
        images, labels = base["train"]
        cut = len(images) - max(1, min(10_000, len(images) // 6))
        pools = {Split.TRAIN: (images[:cut], labels[:cut]), Split.VAL: (images[cut:], labels[cut:]),
                 Split.TEST: base["test"]}  # fmt: skip
        return {split: self._pairs(split, *pool) for split, pool in pools.items()}

    def _pairs(self, split: Split, images: np.ndarray, labels: np.ndarray) -> Pack:
        rng = draws(self.data_seed, f"pairs/{split.value}")
        left, right = rng.randint(0, len(images), size=(2, getattr(self, split.value)))
        canvas = np.zeros((len(left), 36, 36), np.uint8)
        canvas[:, :28, :28] = images[left]
        corner = canvas[:, 6:34, 6:34]
        np.maximum(corner, images[right], out=corner)
        nearest = np.arange(28) * 36 // 28
        small = canvas[:, nearest[:, None], nearest]
        return Pack(small[:, None], {"left": labels[left].astype(np.int64), "right": labels[right].astype(np.int64)})

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:
        return tuple(Task(n, 10, "classification", ("accuracy",), known["chance"][n]) for n in ("left", "right"))
