"""CelebA: forty attributes of a face."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.pictures import finding, picture
from mtlfleet.datasets.prepared import Pack, Prepared
from mtlfleet.errors import EnvironmentProblem

SIZES = (162_770, 19_867, 19_962)


@dataset("celeba")
@dataclass(frozen=True, kw_only=True)
class CelebA(Prepared):
    """Forty binary attributes of faces: 162,770 for training, 19,867 for validation, 19,962 for test.

    The folder holds the annotation as published (``Anno/list_attr_celeba.txt``, ``Eval/list_eval_partition.txt``; also
    flat in the folder) or Kaggle's ``list_attr_celeba.csv`` and ``list_eval_partition.csv``, and the aligned pictures
    in ``Img/img_align_celeba``, ``img_align_celeba`` (also nested once) or ``Img/img_align_celeba_png``.

    Shapes      inputs float32 ``[n, 3, size, size]`` in [0, 1]; a target per attribute, float32 ``[n]``.
    Source      Liu, Luo, Wang & Tang, Deep Learning Face Attributes in the Wild, ICCV 2015; the 64 x 64 forty-task form
                of Sener & Koltun, NeurIPS 2018. The primary metric is accuracy (Kurin et al., 2022); F1 (FAMO) is
                beside it.
    Departures  Pictures are in the order of their names; the released code of MGDA takes the order of a Python set,
                which changes from process to process.

    Parameters
    ----------
    root:   the folder.
    size:   pixels of a side after resizing.
    tasks:  names of attributes in lower case (``smiling``), or none for all forty.
    """

    root: str
    size: int = 64
    tasks: tuple[str, ...] = ()

    free = ("tasks",)

    def _annotation(self) -> tuple[list[str], dict[str, np.ndarray], dict[str, int]]:
        """(attribute names, picture -> 40 of -1 or 1, picture -> 0, 1 or 2)."""
        root = Path(self.root)
        attributes = _first(root, "Anno/list_attr_celeba.txt", "list_attr_celeba.txt", "list_attr_celeba.csv")
        partition = _first(root, "Eval/list_eval_partition.txt", "list_eval_partition.txt", "list_eval_partition.csv")
        rows, parts = _rows(attributes), _rows(partition)
        if attributes.suffix == ".csv":
            names, rows = rows[0][1:], rows[1:]
        else:
            names, rows = rows[1], rows[2:]
        parts = [row for row in parts if len(row) == 2 and row[1].isdigit()]
        marks = {row[0]: np.array(row[1:], np.int8) for row in rows if len(row) == len(names) + 1}
        if len(marks) < len(rows):
            raise EnvironmentProblem(
                f"{attributes}: {len(rows) - len(marks)} lines do not have {len(names)} attributes"
            )
        return [name.lower() for name in names], marks, {row[0]: int(row[1]) for row in parts}

    def _pictures(self) -> tuple[Path, str]:
        for place in ("Img/img_align_celeba", "img_align_celeba/img_align_celeba", "img_align_celeba",
                      "Img/img_align_celeba_png", "img_align_celeba_png"):  # fmt: skip
            folder = Path(self.root) / place
            if folder.is_dir() and any(p.suffix in (".jpg", ".png") for p in folder.iterdir()):
                return folder, ".png" if place.endswith("png") else ".jpg"
        raise EnvironmentProblem(f"{self.root} has no folder of pictures", notes=["expected Img/img_align_celeba"])

    def findings(self) -> Iterator[str]:
        try:
            _, marks, parts = self._annotation()
            folder, suffix = self._pictures()
        except EnvironmentProblem as error:
            yield error.message
            return
        for name in sorted(parts):
            if name not in marks:
                yield f"{name}: in the partition but without attributes"
            elif (wrong := finding((folder / name).with_suffix(suffix))) is not None:
                yield wrong

    def pack(self) -> Mapping[Split, Pack]:
        names, marks, parts = self._annotation()
        folder, suffix = self._pictures()
        packs = {}
        for number, split in enumerate(Split):
            files = sorted(name for name, part in parts.items() if part == number)
            inputs = np.empty((len(files), 3, self.size, self.size), np.uint8)
            for place, file in enumerate(files):
                inputs[place] = picture((folder / file).with_suffix(suffix), (self.size, self.size))
            told = np.array([marks[file] for file in files], np.int8).reshape(len(files), len(names)) > 0
            packs[split] = Pack(inputs, {name: told[:, k].astype(np.float32) for k, name in enumerate(names)})
        return packs

    def describe(self, packs: Mapping[Split, Pack]) -> dict[str, Any]:
        shares = {name: float(y.mean()) for name, y in packs[Split.TRAIN].targets.items()}
        return {"chance": {name: max(share, 1 - share) for name, share in shares.items()}, "order": list(shares)}

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:
        order = known["order"]
        strange = [name for name in self.tasks if name not in order]
        if strange:
            raise ValueError(f"celeba: no attribute is called {strange[0]}; known: {', '.join(order)}")
        chosen = self.tasks or tuple(order)
        return tuple(Task(n, 1, "binary", ("accuracy", "f1", "auc"), known["chance"][n]) for n in chosen)


def _first(root: Path, *places: str) -> Path:
    for place in places:
        if (root / place).is_file():
            return root / place
    raise EnvironmentProblem(f"{root} has none of {', '.join(places)}")


def _rows(path: Path) -> list[list[str]]:
    lines = path.read_text().splitlines()
    if path.suffix == ".csv":
        return [row for row in csv.reader(lines) if row]
    return [line.split() for line in lines if line.strip()]
