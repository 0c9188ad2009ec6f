"""Files that are either whole and on the disk, or not there: the two primitives that the store's promises rest on.

``create`` makes a file under a name that nobody else got (link(2) of a synced temporary file); ``replace`` swaps
one in. Both return after the data and the directory entry are synced. A temporary file never carries a name that a
reader lists.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

from mtlfleet.errors import EnvironmentProblem

_FAIL_AT = os.environ.get("MTLFLEET_FAILPOINT", "")  # "name:n": the n-th passage of that point kills the process
_passed: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Die here by SIGKILL if the environment asks for it; how the kill tests reach every moment that matters."""
    if not _FAIL_AT:
        return
    point, _, nth = _FAIL_AT.partition(":")
    if point == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and sync every parent entry that was missing."""
    missing = [p for p in (folder, *folder.parents) if not p.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


def _temporary(path: Path, write: Callable[[Path], None]) -> Path:
    """A synced temporary file beside ``path``; removed again when writing it fails."""
    temporary = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:12]}"
    try:
        write(temporary)
        failpoint("half-written")
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentProblem(
            f"cannot write {path}: {error.strerror or error}",
            notes=["nothing was left half-written; what was not acknowledged is still in memory"],
            help="free space or mend the permission, then run the same command again",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def create(path: Path, content: bytes | Callable[[Path], None]) -> bool:
    """Make ``path`` durably if it does not exist. Returns whether this call made it; at most one caller does."""
    temporary = _temporary(path, _writer(content))
    try:
        failpoint("before-link")
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    failpoint("after-link")
    return True


def replace(path: Path, content: bytes | Callable[[Path], None], *, mode: int | None = None) -> None:
    """Put a new file in the place of ``path`` durably: readers see the old one or the new one, never a part."""
    temporary = _temporary(path, _writer(content))
    if mode is not None:
        temporary.chmod(mode)
    failpoint("before-rename")
    temporary.replace(path)
    failpoint("after-rename")
    sync_folder(path.parent)


def _writer(content: bytes | Callable[[Path], None]) -> Callable[[Path], None]:
    if not isinstance(content, bytes):
        return content

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write
