"""Where everything lies under a store's root, and how its parts are listed. Paths only; no file is opened here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mtlfleet.errors import UsageError

SNAPSHOT = "results.duckdb"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CLAIM = re.compile(r"attempt=(\d+)\.json")
_PART = re.compile(r"([a-z_]+)-(\d{6,})\.parquet")
_CHECKPOINT = re.compile(r"step=(\d{9,})-attempt=(\d+)")


def checked(name: str, what: str) -> str:
    """``name`` if it can be a folder of ours. Raises UsageError: nothing is ever written outside the root."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} `{name}` cannot be part of a path", notes=["allowed: letters, digits, `_`, `-`, `.`"])
    return name


def studies_folder(root: Path, kind: str, study: str) -> Path:
    return root / kind / f"study={checked(study, 'study')}"


def trial_folder(root: Path, study: str, trial: str) -> Path:
    """Claims and attempts of a trial."""
    return studies_folder(root, "segments", study) / f"trial={checked(trial, 'trial')}"


def checkpoint_folder(root: Path, study: str, trial: str) -> Path:
    return studies_folder(root, "checkpoints", study) / f"trial={checked(trial, 'trial')}"


def checkpoint_path(root: Path, study: str, trial: str, step: int, attempt: int) -> Path:
    """Where a finished checkpoint is renamed to."""
    return checkpoint_folder(root, study, trial) / f"step={step:09d}-attempt={attempt}"


def log_path(root: Path, trial: str, attempt: int, rank: int) -> Path:
    return root / "logs" / f"trial={checked(trial, 'trial')}" / f"attempt={attempt}-rank={rank}.log"


def parse_checkpoint(name: str) -> tuple[int, int] | None:
    """(step, attempt) of a checkpoint's folder name; None for a half-written one."""
    found = _CHECKPOINT.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


class Segment(NamedTuple):
    """One immutable Parquet file of rows; its name is its identity."""

    study: str
    trial: str
    attempt: int
    table: str
    part: int

    @property
    def path(self) -> str:
        """Relative to the root; the ledger's key."""
        folder = f"segments/study={self.study}/trial={self.trial}/attempt={self.attempt}"
        return f"{folder}/{self.table}-{self.part:06d}.parquet"


class Claimed(NamedTuple):
    """One attempt's claim file, and whether it has ended."""

    study: str
    trial: str
    attempt: int
    ended: bool


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Directory entries sorted by name; none when the folder is not there."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda e: e.name)
    except FileNotFoundError:
        return []


def _keyed(folder: Path | str, key: str) -> Iterator[tuple[str, str]]:
    """(value, path) of the sub-folders called ``key=value``."""
    for entry in entries(folder):
        name, _, value = entry.name.partition("=")
        if name == key and value and entry.is_dir():
            yield value, entry.path


def list_segments(root: Path, study: str | None = None) -> list[Segment]:
    """Every finished segment, by path. List these before the claims: a listed segment's claim is then in hand."""
    found = []
    for name, folder in _keyed(root / "segments", "study"):
        if study is not None and name != study:
            continue
        for trial, trial_path in _keyed(folder, "trial"):
            for attempt, attempt_path in _keyed(trial_path, "attempt"):
                if not attempt.isdigit():
                    continue
                for entry in entries(attempt_path):
                    part = _PART.fullmatch(entry.name)
                    if part:
                        found.append(Segment(name, trial, int(attempt), part[1], int(part[2])))
    return found


def list_claims(root: Path) -> list[Claimed]:
    """Every attempt claim of every study."""
    return [
        Claimed(name, trial, attempt, ended)
        for name, folder in _keyed(root / "segments", "study")
        for trial, path in _keyed(folder, "trial")
        for attempt, ended in attempts_in(path)
    ]


def attempts_in(folder: Path | str) -> list[tuple[int, bool]]:
    """(attempt, ended) of one trial's folder, by attempt."""
    names = {entry.name for entry in entries(folder)}
    numbers = sorted(int(found[1]) for found in map(_CLAIM.fullmatch, names) if found)
    return [(n, f"attempt={n}.end.json" in names) for n in numbers]


def document_numbers(folder: Path, table: str) -> list[int]:
    found = (_PART.fullmatch(entry.name) for entry in entries(folder))
    return sorted(int(part[2]) for part in found if part and part[1] == table)


def newest_documents(root: Path) -> dict[tuple[str, str], Path]:
    """(study, table) -> the file that holds all its current rows."""
    newest: dict[tuple[str, str], tuple[int, Path]] = {}
    for study, folder in _keyed(root / "documents", "study"):
        for entry in entries(folder):
            part = _PART.fullmatch(entry.name)
            if part and int(part[2]) > newest.get((study, part[1]), (-1, root))[0]:
                newest[study, part[1]] = (int(part[2]), Path(entry.path))
    return {key: path for key, (_, path) in sorted(newest.items())}


def is_store(folder: Path) -> bool:
    return any((folder / part).exists() for part in ("segments", "documents", SNAPSHOT))


def names_of(folder: Path, key: str) -> list[str]:
    """The values of the sub-folders called ``key=value``."""
    return [value for value, _ in _keyed(folder, key)]
