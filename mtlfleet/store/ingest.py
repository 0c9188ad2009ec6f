"""The ingester: folds segments, claims and documents into a private DuckDB file and publishes copies of it.

Rows and their ledger entry commit in one transaction, so a crash leaves a segment in both or in neither. Readers
open only the published copy, which is replaced by rename: they keep the file they opened and nobody waits for
anybody. Everything here can be thrown away and rebuilt from the files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.plan.place import PUBLISH_MAX_BYTES, Root
from mtlfleet.store import durable, layout, sealing, workfile
from mtlfleet.store.database import create_views, damaged, first_line, insert, load_segments, look_at, sealed_missing
from mtlfleet.store.failpoints import failpoint
from mtlfleet.store.identity import identity
from mtlfleet.store.layout import Claimed, Segment
from mtlfleet.store.mirror import mirror
from mtlfleet.store.mirrored import document_rows, load_attempts, lock_rows
from mtlfleet.store.schema import DOCUMENT_TABLES, LEDGER, SEGMENT_TABLES
from mtlfleet.store.stamp import Seen

PUBLISH_S = 30.0
PUBLISH_DUTY = 20.0  # a publication may take one part in so many of the time

__all__ = ["Ingester", "create_views", "load_segments"]  # the last two: what the mutants of the kill tests replace


class Ingester:
    """The one writer of a store's DuckDB. Raises EnvironmentProblem when another process of this host is at it.

    ``work`` is where the private file lies: in the store, named after the host, unless given. A published file larger
    than ``max_bytes`` is relieved of the bulk rows of ended trials, see ``sealing``; None: never.
    """

    def __init__(self, root: Root, *, work: Path | None = None, max_bytes: int | None = PUBLISH_MAX_BYTES) -> None:
        self.mirror = mirror(root)
        self.root = self.mirror.folder
        self.work = work or workfile.path_in(self.root)
        self.max_bytes = max_bytes
        durable.make_folder(self.root)
        self._uuid = identity(root)
        self._lock = workfile.lock(self.work)
        if not self.work.exists():
            self.mirror.pull_snapshot()  # to start from what another machine published
        self._dirty = not (self.root / layout.SNAPSHOT).exists()
        self._due = 0.0
        self._unsound: dict[Segment, str] = {}
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Ingester:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._con.close()
        self._lock.close()

    def _open(self) -> None:
        self._con, empty = workfile.open_or_make(self.work, self.root / layout.SNAPSHOT)
        self._dirty |= empty
        self._ledger = {row[0] for row in self._con.execute("SELECT segment FROM segments").fetchall()}

    def rebuild(self) -> int:
        """Throw the private file away, ingest everything again, publish. Returns the number of segments."""
        self._empty()
        count = self._ingest()
        self.publish()
        self._raise_unsound()
        return count

    def _empty(self) -> None:
        self._con.close()
        self._con = workfile.make(self.work)
        self._ledger = set()

    def run_once(self) -> int:
        """Ingest what is new, publish when that is due. Returns the number of segments that came in.

        Raises StoreDamaged when a segment is not what was written, after everything else came in; EnvironmentProblem
        when the disk takes no more, and then a later call goes on where this one stopped.
        """
        count = self._ingest()
        if self._dirty and time.monotonic() >= self._due:
            self.publish()
        self._raise_unsound()
        return count

    def _raise_unsound(self) -> None:
        if self._unsound:
            raise damaged(self._unsound, self.root)

    def _ingest(self) -> int:
        self.mirror.pull(lambda: self._ledger)
        listed = layout.list_segments(self.root)
        claims = layout.list_claims(self.root)
        if self._set_aside(claims):
            self._empty()
            return self._ingest()
        new = [s for s in layout.claimed(listed, claims) if s.path not in self._ledger and s.table in SEGMENT_TABLES]
        sound, unsound = look_at(self.root, new)
        with self._transaction():
            changed = self._mirror_attempts(claims)
            changed |= self._replace_documents()
            load_segments(self._con, self.root, list(sound))
            failpoint("between-rows-and-ledger")
            if sound:
                insert(self._con, LEDGER.base, _ledger_rows(sound))
            failpoint("before-commit")
        failpoint("after-commit")
        self._ledger.update(s.path for s in sound)
        self._dirty |= changed or bool(sound) or unsound != self._unsound
        self._unsound = unsound
        return len(sound)

    def _set_aside(self, claims: Sequence[Claimed]) -> bool:
        """Whether this file knows attempts whose claims are gone: the store was repaired on another machine."""
        known = self._con.execute("SELECT study_id, trial_id, attempt FROM attempts").fetchall()
        return not set(known) <= {(c.study, c.trial, c.attempt) for c in claims}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; what the disk refuses leaves a usable ingester behind."""
        with self._disk():
            self._con.begin()
            try:
                yield
                self._con.commit()
            except BaseException:
                try:
                    self._con.rollback()
                except duckdb.Error:  # the file was given up by DuckDB, and the transaction with it
                    self._reopen()
                raise

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.IOException, duckdb.FatalException, duckdb.TransactionException) as error:
            self._reopen()
            raise EnvironmentProblem(
                f"cannot write {self.work}: {first_line(error)}",
                notes=["nothing is lost: the segments hold every row"],
                help="free space, then run the same command again",
            ) from error

    def _reopen(self) -> None:
        self._con.close()
        self._open()

    def _mirror_attempts(self, claims: Sequence[Claimed]) -> bool:
        query = "SELECT study_id, trial_id, attempt, ended_at IS NOT NULL FROM attempts"
        known = {(study, trial, n): ended for study, trial, n, ended in self._con.execute(query).fetchall()}
        stale = [c for c in claims if known.get((c.study, c.trial, c.attempt)) is not c.ended]
        if not stale:
            return False
        load_attempts(self._con, self.root, stale)
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
            try:
                self._con.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM {document_rows(path)}')
            except duckdb.Error as error:
                raise StoreDamaged(
                    f"{path} cannot be read: {first_line(error)}",
                    help=f"delete it: `mtlfleet launch` writes the current {table} again",
                ) from error
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
        if sealed_missing(self._con, self.root):  # no published file named them for a day, and they were collected
            self._reopen()
            self._ingest()
        with self._disk():
            workfile.set_meta(
                self._con, published_at=now, duckdb_version=duckdb.__version__, pending_segments=0,
                damaged_segments=len(self._unsound), store_uuid=self._uuid,
            )  # fmt: skip
            failpoint("before-checkpoint")
            self._con.execute("CHECKPOINT")
            self._relieve()
        failpoint("after-checkpoint")
        target = self.root / layout.SNAPSHOT
        durable.replace(target, lambda temporary: workfile.copy(self.work, temporary), mode=0o444)
        self.mirror.push()
        cost = time.monotonic() - started
        self._due = time.monotonic() + max(PUBLISH_S, PUBLISH_DUTY * cost)
        self._dirty = False
        return target

    def _relieve(self) -> None:
        """Seal what can be sealed if the private file is too large to be copied each time."""
        if self.max_bytes is None or self.work.stat().st_size <= self.max_bytes:
            return
        ripe = sealing.ripe(self._con)
        if not ripe:
            return
        sealed = pa.concat_tables([sealing.seal(self._con, self.root, rows) for rows in ripe])
        for key in sealed["path"].to_pylist():
            self.mirror.keep(key)
        failpoint("sealed")
        self._con.close()
        try:
            workfile.without(self.work, sealed)
        finally:
            self._open()
        self._con.execute("CHECKPOINT")


def _ledger_rows(sound: Mapping[Segment, Seen]) -> pa.Table:
    now = datetime.now(UTC)
    rows = [
        {
            "segment": segment.path,
            "table_name": segment.table,
            "study_id": segment.study,
            "trial_id": segment.trial,
            "attempt": segment.attempt,
            "part": segment.part,
            "rows": seen.rows,
            "bytes": seen.size_bytes,
            "min_step": seen.min_step,
            "max_step": seen.max_step,
            "schema_version": seen.schema_version,
            "sha256": seen.sha256,
            "ingested_at": now,
        }
        for segment, seen in sound.items()
    ]
    return pa.Table.from_pylist(rows, schema=LEDGER.arrow)
