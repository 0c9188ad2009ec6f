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
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.store import durable, layout
from mtlfleet.store.database import (
    comment,
    create_tables,
    create_views,
    quoted,
    sealed_missing,
    table_version,
    view_version,
)
from mtlfleet.store.failpoints import failpoint
from mtlfleet.store.schema import ALL_TABLES, SCHEMA_VERSION, SEALED
from mtlfleet.store.search_path import search
from mtlfleet.store.stamp import version_here

if TYPE_CHECKING:
    import pyarrow as pa

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
    root = snapshot.parent
    if work.exists():
        kept = _reopen(work, root)
        if kept is not None:
            return kept, False
    elif snapshot.exists():
        shutil.copyfile(snapshot, work)
        kept = _reopen(work, root)
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


def without(work: Path, sealed: pa.Table) -> None:
    """Make the private file, which must be closed, anew without the rows that the files in ``sealed`` hold now.

    It takes the place of the old one in one step: until then the old one with all rows is what counts.
    """
    new = work.with_name(f"{work.name}.new")
    discard(new)
    with connect(new) as con:
        con.execute(f"ATTACH {quoted(str(work))} AS old (READ_ONLY)")
        con.begin()
        create_tables(con)
        con.register("now_sealed", sealed)
        for table in ALL_TABLES:
            kept = f'SELECT * FROM old.main."{table.stored}"'
            if table.bulk:
                gone = f"SELECT study_id, trial_id FROM now_sealed WHERE table_name = '{table.name}'"
                kept += f" ANTI JOIN ({gone}) USING (study_id, trial_id)"
            if table is SEALED:  # a trial that is sealed again has another file now
                kept += " ANTI JOIN now_sealed USING (study_id, trial_id, table_name) UNION ALL BY NAME FROM now_sealed"
            con.execute(f'INSERT INTO "{table.stored}" {kept}')
        con.execute("DELETE FROM meta WHERE key = 'view_version'")  # its views are made when it is opened
        failpoint("half-relieved")
        con.commit()
        con.execute("DETACH old")
        con.execute("CHECKPOINT")
    new.replace(work)
    work.with_name(f"{work.name}.wal").unlink(missing_ok=True)  # empty: the old one was closed
    durable.sync_folder(work.parent)
    failpoint("relieved")


def _reopen(work: Path, root: Path) -> duckdb.DuckDBPyConnection | None:
    """The file as it was left; None when it is damaged, of another schema, or names sealed files that are gone."""
    con = None
    try:
        con = connect(work)
        facts = dict(con.execute("SELECT key, value FROM meta").fetchall())
        ours = (facts.get("schema_version"), facts.get("table_version")) == (str(SCHEMA_VERSION), table_version())
        if ours and not sealed_missing(con, root):
            if facts.get("view_version") != view_version():
                with tempfile.TemporaryDirectory(prefix="mtlfleet-") as scratch:
                    search(con, root, Path(scratch))  # views are looked at when they are made, and here only then
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
