"""A place: where a store's files lie, and the few things that are ever done to them.

Two kinds exist, a folder and a prefix of a bucket. Names in a place are keys: relative, with ``/``. What is written is
whole and durable when the call returns, and never changes afterwards, but for the published snapshot. Everything that
claims, ends, registers, documents and checkpoints are is said in these words; SQL reads a folder (see ``mirror``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from mtlfleet.plan.place import Root, is_object_storage


class Leftover(NamedTuple):
    """What a killed process left half-written."""

    key: str
    size_bytes: int


class Place(Protocol):
    """Raises EnvironmentProblem when the disk or the server does not do its part; FileNotFoundError for a key that is
    not there."""

    @property
    def root(self) -> Root: ...

    def verify(self) -> None:
        """Raises EnvironmentProblem when this place does not keep what ``put_new`` promises."""

    def put_new(self, key: str, content: bytes) -> bool:
        """Write ``key`` if nobody has. Returns whether this call did; of several callers at most one is told so."""

    def put(self, key: str, content: bytes) -> None:
        """Write ``key``, whatever was there: a reader finds the old content or the new one, never a part."""

    def put_file(self, key: str, source: Path) -> None:
        """``put`` with the content of a file of this machine."""

    def read(self, key: str) -> bytes: ...

    def read_all(self, keys: Sequence[str]) -> list[bytes]:
        """``read`` of many small ones, together; a missing one is empty."""

    def names(self, folder: str) -> list[str]:
        """What lies directly below, sorted; the names of folders end in ``/``. Nothing when there is no such folder."""

    def names_in(self, folders: Sequence[str]) -> list[list[str]]:
        """``names`` of many, together."""

    def walk(self, folder: str) -> Iterator[str]:
        """The keys of all files below, at any depth, sorted."""

    def delete(self, keys: Sequence[str]) -> None: ...

    def move(self, keys: Sequence[str], folder: str) -> None:
        """Put files below ``folder``, each under its key. A killed process has moved some of them."""

    # Checkpoints: several files that appear together.
    def staging(self, key: str) -> AbstractContextManager[Path]:
        """A folder of this machine to prepare the folder ``key`` in; gone at the end."""

    def put_folder(self, key: str, staged: Path) -> None:
        """Make the files of ``staged`` the folder ``key``, all at once."""

    def folders(self, key: str) -> list[str]:
        """Names of the whole folders directly below ``key``."""

    def open_folder(self, key: str) -> AbstractContextManager[Path]:
        """The folder ``key`` as a folder of this machine, to be read only."""

    def delete_folder(self, key: str) -> None:
        """First it is no longer whole for anybody, then its files go."""

    def move_folder(self, key: str, folder: str) -> None:
        """``move`` for a folder: it is whole in one place or in none."""

    def size(self, key: str) -> int:
        """Bytes of everything below the folder."""

    def age_s(self, key: str) -> float:
        """Seconds since a file was written."""

    def leftovers(self, older_s: float) -> list[Leftover]:
        """What killed processes left half-written longer than so many seconds ago."""

    def discard(self, key: str) -> None:
        """Delete a leftover."""


def at(root: Root) -> Place:
    """The place that ``root`` means."""
    return _at(str(root))


@lru_cache(maxsize=64)
def _at(root: str) -> Place:
    if is_object_storage(root):
        from mtlfleet.store.bucket import Bucket

        return Bucket(root)
    from mtlfleet.store.folder import Folder

    return Folder(Path(root))
