"""Where everything lies under a store's root, and how its parts are listed. No file is opened here.

Keys are relative to the root and hold for every place. The lists at the end are of folders: what SQL reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mtlfleet.errors import UsageError
from mtlfleet.store.folder import entries
from mtlfleet.store.place import Place

SNAPSHOT = "results.duckdb"
IDENTITY = "store.json"  # names the store, whatever becomes of its folder and its database
ARTIFACTS = "artifacts"  # folder of what trials leave for later use
SEALED = "sealed"  # folder of the bulk rows that are too many for the snapshot

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CLAIM = re.compile(r"attempt=(\d+)\.json")
_RETIRED = re.compile(r"retired=(\d+)\.json")
_PART = re.compile(r"([a-z_]+)-(\d{6,})\.parquet")
_CHECKPOINT = re.compile(r"step=(\d{9,})-attempt=(\d+)")


def checked(name: str, what: str) -> str:
    """``name`` if it can be a folder of ours. Raises UsageError: nothing is ever written outside the root."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} `{name}` cannot be part of a path", notes=["allowed: letters, digits, `_`, `-`, `.`"])
    return name


def study_key(kind: str, study: str) -> str:
    """The folder of a study's segments, documents, claims or checkpoints. Keys are relative to the root."""
    return f"{kind}/study={checked(study, 'study')}"


def trial_key(study: str, trial: str) -> str:
    """Claims and attempts of a trial."""
    return f"{study_key('segments', study)}/trial={checked(trial, 'trial')}"


def attempt_key(study: str, trial: str, attempt: int) -> str:
    """An attempt's segments; with ``.json`` its claim, with ``.end.json`` how it ended."""
    return f"{trial_key(study, trial)}/attempt={attempt}"


def checkpoints_key(study: str, trial: str) -> str:
    return f"{study_key('checkpoints', study)}/trial={checked(trial, 'trial')}"


def checkpoint_key(study: str, trial: str, step: int, attempt: int) -> str:
    """Where a finished checkpoint appears."""
    return f"{checkpoints_key(study, trial)}/step={step:09d}-attempt={attempt}"


def retired_key(study: str, trial: str, attempt: int) -> str:
    """Says that attempts up to this one were put aside; their numbers are never given again."""
    return f"{trial_key(study, trial)}/retired={attempt}.json"


def sealed_key(study: str, trial: str, table: str, content: str) -> str:
    """Where a trial's sealed rows of a table lie; ``content`` names the segments that they came from."""
    return f"{study_key(SEALED, study)}/trial={checked(trial, 'trial')}/{table}-{content}.parquet"


def artifacts_key(study: str, trial: str) -> str:
    return f"{study_key(ARTIFACTS, study)}/trial={checked(trial, 'trial')}"


def artifact_key(study: str, trial: str, attempt: int, name: str) -> str:
    """Where a file that an attempt leaves for later use lies."""
    return f"{artifacts_key(study, trial)}/attempt={attempt}/{checked(name, 'artifact')}"


def logs_key(trial: str) -> str:
    return f"logs/trial={checked(trial, 'trial')}"


def log_key(trial: str, attempt: int, rank: int) -> str:
    return f"{logs_key(trial)}/attempt={attempt}-rank={rank}.log"


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


def is_store(place: Place) -> bool:
    return not {"segments/", "documents/", SNAPSHOT}.isdisjoint(place.names(""))


def values_in(place: Place, folder: str, key: str) -> list[str]:
    """The values of the sub-folders called ``key=value``."""
    start = f"{key}="
    return [n[len(start) : -1] for n in place.names(folder) if n.startswith(start) and n.endswith("/")]


def studies_in(place: Place) -> list[str]:
    """Studies with documents or attempts."""
    return sorted({*values_in(place, "documents", "study"), *values_in(place, "segments", "study")})


def attempts_among(names: Iterable[str]) -> list[tuple[int, bool]]:
    """(attempt, ended) of a trial, by attempt, from the names in its folder."""
    names = set(names)
    numbers = sorted(int(found[1]) for found in map(_CLAIM.fullmatch, names) if found)
    return [(n, f"attempt={n}.end.json" in names) for n in numbers]


def retired_among(names: Iterable[str]) -> int:
    """The largest number of an attempt that was put aside, 0 for none, from the names in a trial's folder."""
    return max((int(found[1]) for found in map(_RETIRED.fullmatch, names) if found), default=0)


def attempts_in(place: Place, study: str, trial: str) -> list[tuple[int, bool]]:
    """(attempt, ended) of one trial, by attempt."""
    return attempts_among(place.names(trial_key(study, trial)))


def documents_among(names: Iterable[str]) -> dict[str, int]:
    """Table -> number of its newest document, from the names in a study's folder."""
    newest: dict[str, int] = {}
    for part in filter(None, map(_PART.fullmatch, names)):
        newest[part[1]] = max(int(part[2]), newest.get(part[1], 0))
    return newest


def document_key(study: str, table: str, number: int) -> str:
    return f"{study_key('documents', study)}/{table}-{number:06d}.parquet"


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
        for attempt, ended in attempts_among(entry.name for entry in entries(path))
    ]


def list_retired(root: Path) -> dict[tuple[str, str], int]:
    """(study, trial) -> ``retired_among``, of those that have some."""
    return {
        (name, trial): number
        for name, folder in _keyed(root / "segments", "study")
        for trial, path in _keyed(folder, "trial")
        if (number := retired_among(entry.name for entry in entries(path)))
    }


def claimed(segments: Iterable[Segment], claims: Iterable[Claimed]) -> list[Segment]:
    """The segments whose claim is in hand: without it nobody knows whether their rows count."""
    known = {(c.study, c.trial, c.attempt) for c in claims}
    return [s for s in segments if (s.study, s.trial, s.attempt) in known]


def newest_documents(root: Path) -> dict[tuple[str, str], Path]:
    """(study, table) -> the file that holds all its current rows."""
    newest: dict[tuple[str, str], tuple[int, Path]] = {}
    for study, folder in _keyed(root / "documents", "study"):
        for entry in entries(folder):
            part = _PART.fullmatch(entry.name)
            if part and int(part[2]) > newest.get((study, part[1]), (-1, root))[0]:
                newest[study, part[1]] = (int(part[2]), Path(entry.path))
    return {key: path for key, (_, path) in sorted(newest.items())}


def names_of(folder: Path, key: str) -> list[str]:
    """The values of the sub-folders called ``key=value``."""
    return [value for value, _ in _keyed(folder, key)]
