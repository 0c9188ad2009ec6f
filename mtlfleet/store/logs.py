"""What trials print: one file per trial, attempt and rank. A file grows, so it is written on the machine of its rank;
a bucket gets it when the trial ends there."""

from __future__ import annotations

import re
from pathlib import Path

from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.folder import Folder
from mtlfleet.store.mirror import mirror
from mtlfleet.store.place import at

_NAME = re.compile(r"attempt=(\d+)-rank=(\d+)\.log")


def new_log(root: Root, trial: str, attempt: int, rank: int) -> Path:
    """Where to write it; the folder is there."""
    path = mirror(root).folder / layout.log_key(trial, attempt, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def keep_log(root: Root, trial: str, attempt: int, rank: int) -> None:
    """The file is complete: put it where everybody finds it. Raises EnvironmentProblem."""
    mirror(root).keep(layout.log_key(trial, attempt, rank))


def logs_of(root: Root, trial: str) -> list[tuple[int, int]]:
    """(attempt, rank) of every log that can be read from here."""
    folder = layout.logs_key(trial)
    names = {*at(root).names(folder), *Folder(mirror(root).folder).names(folder)}
    return sorted((int(found[1]), int(found[2])) for found in map(_NAME.fullmatch, names) if found)


def read_log(root: Root, trial: str, attempt: int, rank: int) -> tuple[str, list[str]]:
    """(where it lies, its lines): the file of this machine if there is one, it may be newer. Raises
    FileNotFoundError."""
    key = layout.log_key(trial, attempt, rank)
    here, place = mirror(root).folder / key, at(root)
    content = here.read_bytes() if here.exists() else place.read(key)
    return str(here if here.exists() else f"{place.root}/{key}"), content.decode(errors="replace").splitlines()
