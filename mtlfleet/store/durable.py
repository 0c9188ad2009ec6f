"""Files that are either whole and on the disk, or not there: the two primitives that the store's promises rest on.

``create`` makes a file under a name that nobody else got (link(2) of a synced temporary file); ``replace`` swaps
one in. Both return after the data and the directory entry are synced. A temporary file never carries a name that a
reader lists.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.store.failpoints import failpoint


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What the disk refuses becomes something a user can act on."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path}: {error.strerror or error}",
            notes=["nothing was left half-written; what was not acknowledged is still in memory"],
            help="free space or mend the permission, then run the same command again",
        ) from error


def make_folder(folder: Path) -> None:
    """Create a folder and sync every parent entry that was missing."""
    with _disk(folder):
        missing = [p for p in (folder, *folder.parents) if not p.is_dir()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in reversed(missing):
            sync_folder(path.parent)


def _temporary(path: Path, write: Callable[[Path], None]) -> Path:
    """A synced temporary file beside ``path``; removed again when writing it fails."""
    temporary = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:12]}"
    try:
        with _disk(path):
            write(temporary)
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def create(path: Path, content: bytes | Callable[[Path], None]) -> bool:
    """Make ``path`` durably if it does not exist. Returns whether this call made it; at most one caller does."""
    temporary = _temporary(path, _writer(content))
    try:
        with _disk(path):
            failpoint("before-link")
            os.link(temporary, path)
    except FileExistsError:
        if not temporary.samefile(path):  # NFS may say so of a link whose first answer was lost
            return False
    finally:
        temporary.unlink(missing_ok=True)
    with _disk(path):
        sync_folder(path.parent)
    failpoint("after-link")
    return True


def replace(path: Path, content: bytes | Callable[[Path], None], *, mode: int | None = None) -> None:
    """Put a new file in the place of ``path`` durably: readers see the old one or the new one, never a part."""
    temporary = _temporary(path, _writer(content))
    try:
        with _disk(path):
            if mode is not None:
                temporary.chmod(mode)
            failpoint("before-rename")
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    failpoint("after-rename")
    with _disk(path):
        sync_folder(path.parent)


def _writer(content: bytes | Callable[[Path], None]) -> Callable[[Path], None]:
    if not isinstance(content, bytes):
        return content

    def write(path: Path) -> None:
        half = len(content) // 2
        with path.open("xb") as file:
            file.write(content[:half])
            file.flush()
            failpoint("half-written")
            file.write(content[half:])

    return write
