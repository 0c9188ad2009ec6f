"""The ingester's private DuckDB file: one per host, locked by its owner, and never worth saving.

Its name carries the host, so that two hosts on a shared file system whose locks do not work still have a file each:
both then fold everything in, and only work is wasted. A host without one starts from the published copy, ledger and
all.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import duckdb

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.store import layout
from mtlfleet.store.database import comment, create_tables, create_views, table_version, view_version
from mtlfleet.store.failpoints import failpoint
from mtlfleet.store.schema import SCHEMA_VERSION
from mtlfleet.store.stamp import version_here

STORAGE_VERSION = "v1.5.0"  # what released DuckDB 1.5 clients can open too


def path_in(root: Path) -> Path:
    """This host's private file of the store at ``root``."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"
    return root / f".work-{host}.duckdb"


def lock(work: Path) -> Any:
    """Hold ``work`` for this process. Raises EnvironmentProblem when another one of this host does."""
    path = work.with_name(f"{work.name}.lock")
    handle = path.open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        raise EnvironmentProblem(
            f"another process is folding results into {work.parent / layout.SNAPSHOT}",
            notes=[f"process {holder} holds {path}"],
            help="wait for that launch to end, or stop it with `mtlfleet stop`",
        ) from None
    except OSError:  # a file system without locks: DuckDB's own lock and the host's name in the path remain
        return handle
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def connect(work: Path) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(work), config={"storage_compatibility_version": STORAGE_VERSION, "threads": 2})


def open_or_make(work: Path, snapshot: Path) -> tuple[duckdb.DuckDBPyConnection, bool]:
    """(the private file, whether it holds nothing yet).

    As it was left, its log replayed; else a copy of the published file; else empty. A damaged one, or one whose tables
    are defined otherwise, is made anew: the segments hold everything.
    """
    if work.exists():
        kept = _reopen(work)
        if kept is not None:
            return kept, False
    elif snapshot.exists():
        shutil.copyfile(snapshot, work)
        kept = _reopen(work)
        if kept is not None:
            return kept, False
    return make(work), True


def make(work: Path) -> duckdb.DuckDBPyConnection:
    """An empty private file in the place of whatever was there."""
    discard(work)
    con = connect(work)
    con.begin()
    create_tables(con)
    create_views(con)
    comment(con)
    set_meta(con, schema_version=SCHEMA_VERSION, table_version=table_version())
    set_meta(con, view_version=view_version(), mtlfleet_version=version_here())
    con.commit()
    return con


def discard(work: Path) -> None:
    """Remove the private file with its log and its spill folder; its lock stays held."""
    for leftover in work.parent.glob(f"{work.name}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif not leftover.name.endswith(".lock"):
            leftover.unlink(missing_ok=True)


def _reopen(work: Path) -> duckdb.DuckDBPyConnection | None:
    """The file as it was left; None when it is damaged or of another schema."""
    con = None
    try:
        con = connect(work)
        facts = dict(con.execute("SELECT key, value FROM meta").fetchall())
        if (facts.get("schema_version"), facts.get("table_version")) == (str(SCHEMA_VERSION), table_version()):
            create_views(con)
            comment(con)
            set_meta(con, view_version=view_version(), mtlfleet_version=version_here())
            return con
    except duckdb.Error:
        pass
    if con is not None:
        con.close()
    return None


def set_meta(con: duckdb.DuckDBPyConnection, **facts: object) -> None:
    for key, value in facts.items():
        con.execute("DELETE FROM meta WHERE key = ?", [key])
        con.execute("INSERT INTO meta VALUES (?, ?)", [key, str(value)])


def copy(source: Path, target: Path) -> None:
    """A copy inside the kernel where it can do that."""
    size = source.stat().st_size
    with source.open("rb") as read, target.open("xb") as write:
        for upto in (size // 2, size):
            while (at := write.tell()) < upto:
                if not _in_kernel(read.fileno(), write.fileno(), upto - at):
                    shutil.copyfileobj(read, write, 1 << 22)
                write.seek(0, os.SEEK_END)
                read.seek(write.tell())
            failpoint("half-copied")


def _in_kernel(read: int, write: int, count: int) -> bool:
    if not hasattr(os, "copy_file_range"):  # macOS
        return False
    try:
        return os.copy_file_range(read, write, count) > 0
    except OSError as error:
        if error.errno in (28, 5, 27):  # no space, input/output error, file too large: no other way would do better
            raise
        return False
