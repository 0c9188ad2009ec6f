"""Data on disk: checked and fingerprinted once by ``datasets prepare``, read from then on without a look at the rest.

A dataset of this kind has a parameter ``root``, the folder it was downloaded to; nothing is downloaded here.
``prepare`` refuses a folder that ``findings`` complains about, and writes ``<root>/mtlfleet-<name>-<key>/``:
``facts.json`` with sizes, the shape of an input and a fingerprint of the data, beside packed arrays where reading the
originals again in every epoch would be slow (pictures, text, tables). The key stands for the parameters that change
what is packed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mtlfleet.datasets.base import Arrays, Dataset, Facts, Samples, Split, Task
from mtlfleet.errors import EnvironmentProblem
from mtlfleet.plan.trial import digest, is_path

MANY = 20  # findings that are shown


@dataclass(frozen=True)
class Pack:
    """One split as arrays, inputs [n, ...] (or one per task, of lengths that may differ) and targets [n, ...]."""

    inputs: np.ndarray | Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]


class Prepared(Dataset):
    """A dataset in a folder. A subclass is a frozen dataclass with the fields ``root`` and what else it needs."""

    root: str
    recipe: ClassVar[int] = 1  # raised when the same files come to give other arrays
    free: ClassVar[tuple[str, ...]] = ()  # parameters that change no array

    @abstractmethod
    def findings(self) -> Iterator[str]:
        """What is wrong with the folder: files that are missing, cut short, or hold something else."""

    @abstractmethod
    def pack(self) -> Mapping[Split, Pack]:
        """The three splits."""

    @abstractmethod
    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:
        """The tasks, from what ``describe`` told of the training split."""

    def describe(self, packs: Mapping[Split, Pack]) -> dict[str, Any]:
        """What ``tasks_of`` and ``facts`` need to know of the arrays, as JSON."""
        return {"chance": {name: _chance(y) for name, y in packs[Split.TRAIN].targets.items()}}

    @property
    def place(self) -> Path:
        """Where the prepared form lies."""
        mine = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.free}  # type: ignore[arg-type]
        key = digest({"recipe": self.recipe, **{name: value for name, value in mine.items() if not is_path(name)}})[:8]
        return Path(self.root) / f"mtlfleet-{self.name}-{key}"

    def prepare(self) -> Path:
        """Check the folder and write the prepared form; nothing is done when it is there already.

        Raises EnvironmentProblem for a folder with findings.
        """
        if (self.place / "facts.json").is_file():
            return self.place
        found = list(self.findings())
        if found:
            raise self.refused(found)
        temporary = self.place.with_name(f".tmp-{self.place.name}-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        known = self.write(temporary)
        (temporary / "facts.json").write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        shutil.rmtree(self.place, ignore_errors=True)
        temporary.rename(self.place)
        return self.place

    def write(self, folder: Path) -> dict[str, Any]:
        """Pack into a folder; what ``facts.json`` will say."""
        packs = self.pack()
        sums = hashlib.sha256()
        for split, pack in packs.items():
            inputs = pack.inputs if isinstance(pack.inputs, Mapping) else {"": pack.inputs}
            arrays = {f"{split.value}-inputs{'.' if t else ''}{t}": x for t, x in inputs.items()}
            arrays |= {f"{split.value}-target.{t}": y for t, y in pack.targets.items()}
            for name in sorted(arrays):
                array = np.ascontiguousarray(arrays[name])
                np.save(folder / f"{name}.npy", array)
                sums.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
        train = packs[Split.TRAIN].inputs
        several = isinstance(train, Mapping)
        shape = next(iter(train.values())).shape[1:] if isinstance(train, Mapping) else train.shape[1:]
        sizes = {split.value: _length(pack) for split, pack in packs.items()}
        return {
            "dataset": self.name, "fingerprint": sums.hexdigest(), "sizes": sizes, "input_shape": list(shape),
            "inputs_per_task": several, **self.describe(packs),
        }  # fmt: skip

    def refused(self, found: list[str]) -> EnvironmentProblem:
        more = [f"... and {len(found) - MANY} more"] if len(found) > MANY else []
        return EnvironmentProblem(
            f"{self.name}: {self.root} has {len(found)} finding{'s' if len(found) > 1 else ''}",
            notes=[*found[:MANY], *more],
            help=f"mtlfleet datasets show {self.name} says what the folder should hold",
        )

    def known(self) -> dict[str, Any]:
        """What ``prepare`` wrote. Raises EnvironmentProblem where there is nothing."""
        file = self.place / "facts.json"
        if not file.is_file():
            given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}  # type: ignore[arg-type]
            words = " ".join(f"--set {name}={json.dumps(v)}" for name, v in given.items() if not is_path(name))
            raise EnvironmentProblem(
                f"{self.name} in {self.root} is not prepared for these parameters",
                notes=[f"there is no {file}"],
                help=f"mtlfleet datasets prepare {self.name} --root {self.root} {words}".rstrip(),
            )
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def facts(self) -> Facts:
        known = self.known()
        sizes = {"val_size": known["sizes"]["val"], "test_size": known["sizes"]["test"]}
        free = {name: getattr(self, name) for name in self.free}
        mark = digest({"recipe": self.recipe, "data": known["fingerprint"], "free": free})
        return Facts(self.tasks_of(known), known["sizes"]["train"], tuple(known["input_shape"]), mark, sizes)

    def split(self, split: Split) -> Samples:
        known = self.known()
        return _open(self.place, split, known["fingerprint"], tuple(t.name for t in self.tasks_of(known)))


def _length(pack: Pack) -> int:
    return max(map(len, pack.inputs.values())) if isinstance(pack.inputs, Mapping) else len(pack.inputs)


def _chance(target: np.ndarray) -> float:
    """What the best constant gets: the share of the commonest class, or the standard deviation."""
    if target.dtype.kind in "iub":
        return float(np.unique(target, return_counts=True)[1].max() / len(target))
    return float(target.astype(np.float64).std()) or 1.0


def plain(array: np.ndarray) -> np.ndarray:
    """Bytes as numbers in [0, 1], small whole numbers as int64, everything else as float32."""
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    return np.asarray(array, dtype=np.float32)


@dataclass(frozen=True)
class PackedSamples:
    """A split in files that are mapped into memory: a batch reads its own rows."""

    inputs: np.ndarray
    targets: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.inputs)

    def fetch(self, index: np.ndarray) -> Arrays:
        targets = {name: plain(values[index]) for name, values in self.targets.items()}
        return Arrays(plain(self.inputs[index]), targets, index.astype(np.int64))


@dataclass(frozen=True)
class SeveralInputs:
    """A split with an input per task: sample i has everyone's i-th input.

    Tasks may have different numbers of samples; an epoch is as long as the longest. In training the shorter ones begin
    again (``again``), as LibMTL's loaders do; elsewhere they are absent once they are through, so that every sample is
    measured once.
    """

    inputs: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    again: bool

    def __len__(self) -> int:
        return max(map(len, self.inputs.values()))

    def fetch(self, index: np.ndarray) -> Arrays:
        own = {t: index % len(x) for t, x in self.inputs.items()}
        targets = {t: plain(y[own[t]]) for t, y in self.targets.items()}
        present = None if self.again else {t: index < len(x) for t, x in self.inputs.items()}
        return Arrays({t: plain(x[own[t]]) for t, x in self.inputs.items()}, targets, index.astype(np.int64), present)


@cache
def _open(place: Path, split: Split, fingerprint: str, tasks: tuple[str, ...]) -> Samples:  # noqa: ARG001
    def mapped(name: str) -> np.ndarray:
        found: np.ndarray = np.load(place / f"{split.value}-{name}.npy", mmap_mode="r")
        return found

    targets = {task: mapped(f"target.{task}") for task in tasks}
    if (place / f"{split.value}-inputs.npy").is_file():
        return PackedSamples(mapped("inputs"), targets)
    return SeveralInputs({task: mapped(f"inputs.{task}") for task in tasks}, targets, split is Split.TRAIN)


def carve(size: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, val) positions of ``size`` samples: a random ``share`` becomes validation, the same for every trial."""
    from mtlfleet.datasets.splits import draws

    order = draws(seed, "validation").permutation(size)
    count = max(1, round(size * share))
    return np.sort(order[count:]), np.sort(order[:count])


def carve_groups(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As ``carve``, but samples of a group (a person, a search, a scene) stay together."""
    from mtlfleet.datasets.splits import draws

    names, member = np.unique(groups, return_inverse=True)
    order = draws(seed, "validation").permutation(len(names))
    sizes = np.bincount(member)[order].cumsum()
    chosen = order[: max(1, int(np.searchsorted(sizes, share * len(groups), side="right")))]
    inside = np.isin(member, chosen)
    return np.flatnonzero(~inside), np.flatnonzero(inside)
