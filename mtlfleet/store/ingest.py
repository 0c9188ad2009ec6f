"""The ingester: folds segments, claims and documents into a private DuckDB file and publishes copies of it.

Rows and their ledger entry commit in one transaction, so a crash leaves a segment in both or in neither. Readers
open only the published copy, which is replaced by rename: they keep the file they opened and nobody waits for
anybody. Everything here can be thrown away and rebuilt from the files.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.plan.place import Root
from mtlfleet.store import durable, layout
from mtlfleet.store.database import (
    attempt_rows,
    comment,
    create_tables,
    create_views,
    document_rows,
    first_line,
    insert,
    load_segments,
    lock_rows,
)
from mtlfleet.store.layout import Segment
from mtlfleet.store.mirror import mirror
from mtlfleet.store.schema import DOCUMENT_TABLES, LEDGER, SCHEMA_VERSION, SEGMENT_TABLES

STORAGE_VERSION = "v1.5.0"  # what released DuckDB 1.5 clients can open too
PUBLISH_S = 30.0
PUBLISH_DUTY = 20.0  # a publication may take one part in so many of the time


class Ingester:
    """The one writer of a store's DuckDB. Raises EnvironmentProblem when another process is at it."""

    def __init__(self, root: Root) -> None:
        self.mirror = mirror(root)
        self.root = self.mirror.folder
        self.work = self.root / layout.WORK
        durable.make_folder(self.root)
        self._lock = _lock(self.root)
        self._dirty = not (self.root / layout.SNAPSHOT).exists()
        self._due = 0.0
        try:
            self._con = self._open()
        except BaseException:
            self._lock.close()
            raise
        self._ledger = {row[0] for row in self._con.execute("SELECT segment FROM segments").fetchall()}

    def __enter__(self) -> Ingester:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._con.close()
        self._lock.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        """The private file; a damaged one, or one of another schema, is made anew: the segments hold everything."""
        kept = _reopen(self.work) if self.work.exists() else None
        if kept is not None:
            return kept
        _discard(self.root)
        con = _connect(self.work)
        con.begin()
        create_tables(con)
        create_views(con)
        comment(con)
        _set_meta(con, schema_version=SCHEMA_VERSION, mtlfleet_version=_version())
        con.commit()
        self._dirty = True
        return con

    def rebuild(self) -> int:
        """Throw the private file away, ingest everything again, publish. Returns the number of segments."""
        self._con.close()
        _discard(self.root)
        self._con = self._open()
        self._ledger = set()
        count = self._ingest()
        self.publish()
        return count

    def run_once(self) -> int:
        """Ingest what is new, publish when that is due. Returns the number of segments that came in.

        Raises StoreDamaged when a segment cannot be read; nothing of that batch was kept.
        """
        count = self._ingest()
        if self._dirty and time.monotonic() >= self._due:
            self.publish()
        return count

    def _ingest(self) -> int:
        self.mirror.pull(lambda: self._ledger)
        segments = [
            s for s in layout.list_segments(self.root) if s.path not in self._ledger and s.table in SEGMENT_TABLES
        ]
        self._con.begin()
        try:
            changed = self._mirror_attempts()
            changed |= self._replace_documents()
            load_segments(self._con, self.root, segments)
            durable.failpoint("between-rows-and-ledger")
            if segments:
                insert(self._con, LEDGER.base, _ledger_rows(self.root, segments))
            durable.failpoint("before-commit")
            self._con.commit()
        except BaseException:
            self._con.rollback()
            raise
        durable.failpoint("after-commit")
        self._ledger.update(s.path for s in segments)
        self._dirty |= changed or bool(segments)
        return len(segments)

    def _mirror_attempts(self) -> bool:
        query = "SELECT study_id, trial_id, attempt, ended_at IS NOT NULL FROM attempts"
        known = {(study, trial, n): ended for study, trial, n, ended in self._con.execute(query).fetchall()}
        claims = layout.list_claims(self.root)
        stale = [c for c in claims if known.get((c.study, c.trial, c.attempt)) is not c.ended]
        if not stale:
            return False
        rows = attempt_rows(self.root, stale)
        self._con.register("incoming", rows)
        self._con.execute(
            "DELETE FROM attempts a USING incoming i"
            " WHERE (a.study_id, a.trial_id, a.attempt) = (i.study_id, i.trial_id, i.attempt)"
        )
        self._con.unregister("incoming")
        insert(self._con, "attempts", rows)
        return True

    def _replace_documents(self) -> bool:
        query = "SELECT study_id, table_name, document FROM documents"
        known = {(study, table): path for study, table, path in self._con.execute(query).fetchall()}
        changed = False
        for (study, table), path in layout.newest_documents(self.root).items():
            relative = path.relative_to(self.root).as_posix()
            if table not in DOCUMENT_TABLES or known.get((study, table)) == relative:
                continue
            self._con.execute(f'DELETE FROM "{table}" WHERE study_id = ?', [study])
            self._con.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM {document_rows(path)}')
            self._con.execute("DELETE FROM documents WHERE (study_id, table_name) = (?, ?)", [study, table])
            self._con.execute("INSERT INTO documents VALUES (?, ?, ?)", [study, table, relative])
            changed = True
        return self._mirror_locks() or changed

    def _mirror_locks(self) -> bool:
        locked = layout.names_of(self.root / "claims", "study")
        if not locked:
            return False
        rows = lock_rows(self.root, locked)
        found = self._con.execute("SELECT count(*) FROM claim_locks").fetchone()
        if found is not None and found[0] == rows.num_rows:  # registrations are only ever added
            return False
        self._con.execute("DELETE FROM claim_locks")
        insert(self._con, "claim_locks", rows)
        return True

    def publish(self) -> Path:
        """Copy the private file to ``results.duckdb`` and rename it into place, read-only. Returns its path."""
        started = time.monotonic()
        now = datetime.now(UTC).isoformat()
        _set_meta(self._con, published_at=now, duckdb_version=duckdb.__version__, pending_segments=0)
        self._con.execute("CHECKPOINT")
        durable.failpoint("after-checkpoint")
        target = self.root / layout.SNAPSHOT
        durable.replace(target, lambda temporary: _copy(self.work, temporary), mode=0o444)
        self.mirror.push()
        cost = time.monotonic() - started
        self._due = time.monotonic() + max(PUBLISH_S, PUBLISH_DUTY * cost)
        self._dirty = False
        return target


def _discard(root: Path) -> None:
    """Remove the private file with its log and its spill folder."""
    for leftover in root.glob(f"{layout.WORK}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _lock(root: Path) -> Any:
    handle = (root / ".ingester.lock").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        raise EnvironmentProblem(
            f"another process is folding results into {root / layout.SNAPSHOT}",
            notes=[f"process {holder} holds {root / '.ingester.lock'}"],
            help="wait for that launch to end, or stop it with `mtlfleet stop`",
        ) from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(path), config={"storage_compatibility_version": STORAGE_VERSION, "threads": 2})


def _reopen(path: Path) -> duckdb.DuckDBPyConnection | None:
    """The private file as it was left, its log replayed; None when it is damaged or of another schema version."""
    con = None
    try:
        con = _connect(path)
        found = con.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        if found and found[0] == str(SCHEMA_VERSION):
            create_views(con)
            comment(con)
            return con
    except duckdb.Error:
        pass
    if con is not None:
        con.close()
    return None


def _set_meta(con: duckdb.DuckDBPyConnection, **facts: object) -> None:
    for key, value in facts.items():
        con.execute("DELETE FROM meta WHERE key = ?", [key])
        con.execute("INSERT INTO meta VALUES (?, ?)", [key, str(value)])


def _version() -> str:
    try:
        return version("mtlfleet")
    except PackageNotFoundError:
        return "unknown"


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _ledger_rows(root: Path, segments: Sequence[Segment]) -> pa.Table:
    import pyarrow.parquet as pq

    now = datetime.now(UTC)
    rows = []
    for segment in segments:
        path = root / segment.path
        try:
            count = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreDamaged(f"{path} cannot be read: {first_line(error)}") from error
        rows.append(
            {
                "segment": segment.path,
                "table_name": segment.table,
                "study_id": segment.study,
                "trial_id": segment.trial,
                "attempt": segment.attempt,
                "part": segment.part,
                "rows": count,
                "bytes": path.stat().st_size,
                "ingested_at": now,
            }
        )
    return pa.Table.from_pylist(rows, schema=LEDGER.arrow)
