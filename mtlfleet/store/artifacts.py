"""Files that trials leave for later use, whole and durable before a row names them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mtlfleet.errors import StoreDamaged
from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.place import Place, at


class Kept(NamedTuple):
    """Where a file lies and what it is known by."""

    uri: str
    size_bytes: int
    sha256: str


def keep_artifact(root: Root, study: str, trial: str, attempt: int, name: str, write: Callable[[Path], object]) -> Kept:
    """Keep what ``write`` makes at the path that it is given. Raises EnvironmentProblem when the place does not take
    it; then, and after a kill, there is no such file."""
    key = layout.artifact_key(study, trial, attempt, name)
    with tempfile.TemporaryDirectory(prefix="mtlfleet-") as folder:
        made = Path(folder) / name
        write(made)
        with made.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        at(root).put_file(key, made)
        return Kept(key, made.stat().st_size, sha256)


def read_artifact(root: Root, uri: str, sha256: str) -> bytes:
    """Its content. Raises StoreDamaged when it is not what was written, or not there."""
    try:
        content = at(root).read(uri)
    except FileNotFoundError:
        raise StoreDamaged(f"{root}/{uri} is not there", notes=["the table artifacts names it"]) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise StoreDamaged(f"{root}/{uri} is not what was written: its SHA-256 is not the one in the table artifacts")
    return content


def superseded_artifacts(place: Place, study: str) -> Iterator[str]:
    """Keys of files whose attempt was followed by another one, which leaves its own."""
    for trial in layout.values_in(place, layout.study_key(layout.ARTIFACTS, study), "trial"):
        newest = max((n for n, _ in layout.attempts_in(place, study, trial)), default=0)
        folder = layout.artifacts_key(study, trial)
        for attempt in layout.values_in(place, folder, "attempt"):
            if attempt.isdigit() and int(attempt) < newest:
                yield from place.walk(f"{folder}/attempt={attempt}")
