"""The folder that SQL reads. A store in a folder is its own; for a bucket a copy of what a query needs is kept here.

The copy lies in the user's cache, one per endpoint and URL, and can be deleted at any time. Segments, claims and
documents never change, so each is fetched once; segments that the published snapshot holds are not fetched at all. The
snapshot is fetched when its ETag is another one, after the sealed files that it names. The order is that of every
reader: segments are listed first, the snapshot comes second, claims are listed last.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.plan.place import Root, is_object_storage
from mtlfleet.store import layout
from mtlfleet.store.folder import Folder
from mtlfleet.store.place import at

if TYPE_CHECKING:
    from mtlfleet.store.bucket import Bucket

KEPT_S = 86_400.0  # a fetched segment that the snapshot holds goes after a day: no query runs that long
KINDS = ("segments", "documents", "claims")  # what SQL is made from
_ETAG = ".results.etag"
_SEGMENT = re.compile(r".*\.parquet")


class Mirror(Protocol):
    """A folder of this machine with the files of a store."""

    @property
    def folder(self) -> Path: ...

    def pull(self, known: Callable[[], Collection[str]]) -> None:
        """Bring it up to date; segments among ``known`` need not be there. ``known`` is called after segments were
        listed."""

    def pull_snapshot(self) -> None:
        """Bring the published file."""

    def push(self) -> None:
        """Make the folder's snapshot the published one."""

    def keep(self, key: str) -> None:
        """Give a file of the folder to the store."""


class Itself:
    """A store in a folder needs no copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pull(self, known: Callable[[], Collection[str]]) -> None:
        """Nothing: the files are here."""

    def pull_snapshot(self) -> None:
        """Nothing: it is here."""

    def push(self) -> None:
        """Nothing: the snapshot was renamed into place."""

    def keep(self, key: str) -> None:
        """Nothing: it is there."""


class Copy:
    """What is here of a bucket's store."""

    def __init__(self, bucket: Bucket) -> None:
        from mtlfleet.store import connection

        self.bucket = bucket
        name = hashlib.sha256(f"{connection.endpoint() or ''} {bucket.url}".encode()).hexdigest()[:16]
        self.folder = _cache() / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for kind in (*KINDS, layout.SEALED):
                (self.folder / kind).mkdir(exist_ok=True)
            (self.folder / "origin").write_text(f"{bucket.url}\n")
        except OSError as error:
            raise EnvironmentProblem(
                f"no copy of {bucket.url} can be kept in {self.folder}: {error.strerror}",
                help="name another folder: export XDG_CACHE_HOME=...",
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One at a time: the snapshot only ever moves forward."""
        with (self.folder / ".pull.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def pull(self, known: Callable[[], Collection[str]]) -> None:
        with self.locked():
            self._pull(known)

    def _pull(self, known: Callable[[], Collection[str]], *, anew: bool = False) -> None:
        """``anew``: also what is here already."""
        here = {key for kind in KINDS for key in Folder(self.folder).walk(kind)}
        listed = {key for key in self.bucket.walk("segments") if _SEGMENT.fullmatch(key)}
        held = known()
        claims = {key for key in self.bucket.walk("segments") if not _SEGMENT.fullmatch(key)}
        others = {key for kind in ("documents", "claims") for key in self.bucket.walk(kind)}
        self._forget(here - listed - claims - others, older_s=0.0)
        self._forget({key for key in here & listed if key in held}, older_s=KEPT_S)
        for view in self.folder.glob(".view-*"):  # of processes that were killed
            if time.time() - view.stat().st_mtime > KEPT_S:
                shutil.rmtree(view, ignore_errors=True)
        # Claims before segments: a segment in this folder always has its claim beside it.
        kept = set() if anew else here
        self._fetch((claims | others) - kept)
        self._fetch({key for key in listed - kept if key not in held})

    def _fetch(self, keys: Collection[str]) -> None:
        for folder in {self.folder / key.rpartition("/")[0] for key in keys}:
            folder.mkdir(parents=True, exist_ok=True)
        self.bucket.fetch_all([(key, self.folder / key) for key in sorted(keys)])

    def _forget(self, keys: Collection[str], older_s: float) -> None:
        for key in keys:
            path = self.folder / key
            if time.time() - path.stat().st_mtime >= older_s:
                path.unlink(missing_ok=True)

    def pull_snapshot(self) -> None:
        with self.locked():
            self._pull_snapshot()

    def _pull_snapshot(self, *, anew: bool = False) -> None:
        """Fetch the published file if it is another than the one here, or ``anew``."""
        target, note = self.folder / layout.SNAPSHOT, self.folder / _ETAG
        etag = self.bucket.version(layout.SNAPSHOT)
        if etag is None:
            target.unlink(missing_ok=True)
        elif anew or not target.exists() or not note.exists() or note.read_text() != etag:
            temporary = self.folder / f".{layout.SNAPSHOT}.tmp-{os.getpid()}"
            etag = self.bucket.fetch(layout.SNAPSHOT, temporary)
            here, named = set(Folder(self.folder).walk(layout.SEALED)), set(sealed(temporary))
            self._fetch(named if anew else named - here)
            if anew:
                self._forget(here & named - set(self.bucket.walk(layout.SEALED)), older_s=0.0)
            self._forget(here - named, older_s=KEPT_S)
            temporary.replace(target)
            note.write_text(etag)

    def push(self) -> None:
        with self.locked():
            self.bucket.put_file(layout.SNAPSHOT, self.folder / layout.SNAPSHOT)
            (self.folder / _ETAG).write_text(self.bucket.version(layout.SNAPSHOT) or "")

    def keep(self, key: str) -> None:
        self.bucket.put_file(key, self.folder / key)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtlfleet"


def mirror(root: Root) -> Mirror:
    """The folder for the store at ``root``; a bucket's may be empty until ``pull``."""
    if is_object_storage(root):
        from mtlfleet.store.bucket import Bucket

        bucket = at(root)
        assert isinstance(bucket, Bucket)
        return Copy(bucket)
    return Itself(Path(root))


def published(root: Root) -> Path:
    """The published file on this machine, as of now. For a bucket a copy, replaced by later questions: an open reader
    keeps the one it opened."""
    found = mirror(root)
    found.pull_snapshot()
    return found.folder / layout.SNAPSHOT


@contextmanager
def files(root: Root, *, use_snapshot: bool = True) -> Iterator[Path]:
    """A folder with the state of the store as of now, to be read while the context is open. It may be the store."""
    with _view(root, lambda copy, view: copy._pull(lambda: _held(copy, view) if use_snapshot else ())) as folder:
        yield folder


@contextmanager
def whole(root: Root) -> Iterator[Path]:
    """``files`` with every file there is, and each as the store has it: what was fetched before may be what is damaged,
    so for a bucket all of them are fetched anew, and take the place of the copies here."""

    def pull(copy: Copy, view: Path) -> None:
        _held(copy, view, anew=True)  # before segments are listed: it then names none that is not among them
        copy._pull(lambda: (), anew=True)

    with _view(root, pull) as folder:
        yield folder


@contextmanager
def _view(root: Root, pull: Callable[[Copy, Path], None]) -> Iterator[Path]:
    found = mirror(root)
    if not isinstance(found, Copy):
        yield found.folder
        return
    with tempfile.TemporaryDirectory(dir=found.folder, prefix=".view-") as name:
        view = Path(name)
        for kind in (*KINDS, layout.SEALED):
            (view / kind).symlink_to(found.folder / kind, target_is_directory=True)
        with found.locked():
            pull(found, view)
        yield view


def _held(copy: Copy, view: Path, *, anew: bool = False) -> set[str]:
    """The segments that the snapshot holds; it is pinned in ``view``, so that no later one takes its place."""
    copy._pull_snapshot(anew=anew)
    snapshot = copy.folder / layout.SNAPSHOT
    if not snapshot.exists():
        return set()
    (view / layout.SNAPSHOT).hardlink_to(snapshot)
    return ledger(view / layout.SNAPSHOT)


def ledger(snapshot: Path) -> set[str]:
    """Keys of the segments in a published file; none when it cannot be read as ours: what opens it says why."""
    return _keys(snapshot, "SELECT segment FROM segments")


def sealed(snapshot: Path) -> set[str]:
    """Keys of the sealed files that a published file names."""
    return _keys(snapshot, "SELECT path FROM sealed")


def _keys(snapshot: Path, query: str) -> set[str]:
    import duckdb

    try:
        with duckdb.connect(str(snapshot), read_only=True) as con:
            return {row[0] for row in con.execute(query).fetchall()}
    except duckdb.Error:
        return set()
