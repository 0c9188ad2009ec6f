"""A store in a folder of a POSIX file system: temporary file, fsync, link or rename, fsync of the folder."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mtlfleet.store import durable
from mtlfleet.store.failpoints import failpoint
from mtlfleet.store.place import Leftover

KINDS = ("segments", "documents", "claims", "checkpoints", "artifacts", "sealed")
READ_ONLY = 0o444


@dataclass(frozen=True)
class Folder:
    """The folder ``root``; made when something is first written."""

    root: Path

    def _writable(self, key: str) -> Path:
        path = self.root / key
        durable.make_folder(path.parent)
        return path

    def verify(self) -> None:
        """A folder's link(2) fails aloud where it cannot be exclusive."""

    def put_new(self, key: str, content: bytes) -> bool:
        path = self._writable(key)
        if not durable.create(path, content):
            return False
        path.chmod(READ_ONLY)
        return True

    def put(self, key: str, content: bytes) -> None:
        durable.replace(self._writable(key), content, mode=READ_ONLY)

    def put_file(self, key: str, source: Path) -> None:
        durable.replace(self._writable(key), lambda target: _copy(source, target), mode=READ_ONLY)

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def read_all(self, keys: Sequence[str]) -> list[bytes]:
        return [self._read_if_there(key) for key in keys]

    def _read_if_there(self, key: str) -> bytes:
        try:
            return self.read(key)
        except FileNotFoundError:
            return b""

    def names(self, folder: str) -> list[str]:
        found = entries(self.root / folder)
        return [f"{e.name}/" if e.is_dir() else e.name for e in found if not e.name.startswith(".")]

    def names_in(self, folders: Sequence[str]) -> list[list[str]]:
        return [self.names(folder) for folder in folders]

    def walk(self, folder: str) -> Iterator[str]:
        for name in self.names(folder):
            if name.endswith("/"):
                yield from self.walk(f"{folder}/{name[:-1]}")
            else:
                yield f"{folder}/{name}"

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            (self.root / key).unlink(missing_ok=True)

    def move(self, keys: Sequence[str], folder: str) -> None:
        for key in keys:
            self.move_folder(key, folder)
            with suppress(OSError):  # not empty yet
                (self.root / key).parent.rmdir()

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        target = self.root / key
        temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        durable.make_folder(temporary)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def put_folder(self, key: str, staged: Path) -> None:
        target = self.root / key
        for file in staged.iterdir():
            _sync(file)
        _sync(staged)
        failpoint("half-checkpoint")
        if target.exists():  # the same attempt at the same step: an earlier call got this far
            shutil.rmtree(target)
        staged.rename(target)
        _sync(target.parent)
        failpoint("after-checkpoint-rename")

    def folders(self, key: str) -> list[str]:
        found = entries(self.root / key)
        return [e.name for e in found if not e.name.startswith(".") and e.is_dir() and entries(e.path)]

    @contextmanager
    def open_folder(self, key: str) -> Iterator[Path]:
        yield self.root / key

    def delete_folder(self, key: str) -> None:
        path = self.root / key
        doomed = path.with_name(f".{path.name}.tmp-deleted")
        try:
            path.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed)

    def move_folder(self, key: str, folder: str) -> None:
        (self.root / key).rename(self._writable(f"{folder}/{key}"))

    def size(self, key: str) -> int:
        path = self.root / key
        inside = path.rglob("*") if path.is_dir() else [path]
        return sum(p.lstat().st_size for p in inside if p.is_file())

    def age_s(self, key: str) -> float:
        return time.time() - (self.root / key).stat().st_mtime

    def leftovers(self, older_s: float) -> list[Leftover]:
        found = []
        inside = [path for kind in KINDS for path in (self.root / kind).rglob(".*tmp-*")]
        for path in sorted([*self.root.glob(".*.tmp-*"), *inside]):
            if time.time() - path.lstat().st_mtime > older_s:
                key = path.relative_to(self.root).as_posix()
                found.append(Leftover(key, self.size(key)))
        return found

    def discard(self, key: str) -> None:
        path = self.root / key
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Directory entries sorted by name; none when the folder is not there."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
