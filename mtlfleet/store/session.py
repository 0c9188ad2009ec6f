"""A live view of a store: the published file plus whatever was flushed since, in one read-only DuckDB session."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.store import layout
from mtlfleet.store.database import (
    comment,
    create_tables,
    create_views,
    damaged,
    first_line,
    insert,
    load_segments,
    look_at,
    quoted,
    sealed_missing,
    sealed_paths,
    table_version,
    view_version,
)
from mtlfleet.store.freshness import Freshness
from mtlfleet.store.mirrored import document_rows, load_attempts, lock_rows
from mtlfleet.store.schema import (
    ALL_TABLES,
    DOCUMENT_TABLES,
    LEDGER,
    META,
    MIRRORED_LOCKS,
    SCHEMA_VERSION,
    SEALED,
    SEGMENT_TABLES,
)
from mtlfleet.store.search_path import search

if TYPE_CHECKING:
    import pyarrow as pa


def attach(con: duckdb.DuckDBPyConnection, root: Path, source: str, query: str) -> Freshness:
    """Make the store's tables and views in ``con``: ``live``, the published ``snapshot`` alone, or from ``segments``.

    Made anew is only what ``query`` can name, and with what tables and columns mean if that is what it asks. Raises
    EnvironmentProblem when there is no snapshot to use.
    """
    if source != "snapshot":
        comments = "comment" in query.lower()
        freshness = attach_live(con, root, use_snapshot=source == "live", asked=None if comments else query)
        if comments and _database(con) != "snapshot":
            comment(con)
        return freshness
    con.execute("SET TimeZone = 'UTC'")
    if not _attach_snapshot(con, root):
        raise EnvironmentProblem(
            f"{root / layout.SNAPSHOT} is not there, or of another version",
            help="leave --snapshot out: the segments hold every row",
        )
    con.execute("USE snapshot")
    _allow_sealed(con, root)
    return Freshness(_age(con), 0)


def _database(con: duckdb.DuckDBPyConnection) -> str:
    row = con.execute("SELECT current_database()").fetchone()
    return str(row[0]) if row else ""


def attach_live(
    con: duckdb.DuckDBPyConnection, root: Path, *, use_snapshot: bool = True, asked: str | None = None
) -> Freshness:
    """Make every table and view of the store in the in-memory connection ``con``, or those that ``asked`` can name.

    When nothing was written since the snapshot, the snapshot itself is used.

    Order matters: segments are listed first, then the snapshot is opened, then claims are listed. A segment is then
    in the snapshot's ledger, or pending, or newer than the list, never in two of these, and its claim is in hand.
    Raises StoreDamaged when the snapshot or a segment cannot be read.
    """
    con.execute("SET TimeZone = 'UTC'")
    segments = [s for s in layout.list_segments(root) if s.table in SEGMENT_TABLES]
    snapshot = use_snapshot and _attach_snapshot(con, root)
    ledger = {row[0] for row in con.execute("SELECT segment FROM snapshot.segments").fetchall()} if snapshot else set()
    pending = layout.claimed((s for s in segments if s.path not in ledger), layout.list_claims(root))
    _, unsound = look_at(root, pending)
    if unsound:
        raise damaged(unsound, root)
    if snapshot and not pending and _is_current(con, root):
        con.execute("USE snapshot")
        _allow_sealed(con, root)
        return Freshness(_age(con), 0)
    create_tables(con, [t for t in ALL_TABLES if t not in (LEDGER, SEALED, META) or not snapshot])
    load_segments(con, root, pending)
    _load_attempts(con, root, snapshot=snapshot)
    _load_documents(con, root)
    age = _join_snapshot(con, {s.table for s in pending}) if snapshot else None
    if not snapshot:
        con.execute("INSERT INTO meta VALUES ('schema_version', ?)", [str(SCHEMA_VERSION)])
    con.execute("INSERT INTO meta VALUES ('pending_segments', ?)", [str(len(pending))])
    create_views(con, f"{root}/", asked=asked)
    _allow_sealed(con, root)
    return Freshness(age, len(pending))


def _allow_sealed(con: duckdb.DuckDBPyConnection, root: Path) -> None:
    """Leave to read the sealed files that are named, and no others, wherever this process stands."""
    if sealed := sealed_paths(con):
        scratch = con.execute("SELECT current_setting('temp_directory')").fetchone()
        found = search(con, root, Path(scratch[0] if scratch else ""))
        allowed = ", ".join(quoted(path) for key in sealed for path in (key, f"{root}/{key}", f"{found}/{key}"))
        con.execute(f"SET allowed_paths = [{allowed}]")


def _attach_snapshot(con: duckdb.DuckDBPyConnection, root: Path) -> bool:
    path = root / layout.SNAPSHOT
    if not path.exists():
        return False
    try:
        con.execute(f"ATTACH {quoted(str(path))} AS snapshot (READ_ONLY)")
        facts = dict(con.execute("SELECT key, value FROM snapshot.meta").fetchall())
    except duckdb.Error as error:
        raise StoreDamaged(
            f"{path} cannot be opened: {first_line(error)}",
            notes=["it is only a copy: the segments beside it hold every row"],
            help=f"delete {path.name} and run the command again; the next launch publishes a new one",
        ) from error
    if facts.get("table_version") != table_version():  # of another mtlfleet: the segments say the same
        con.execute("DETACH snapshot")
        return False
    if gone := sealed_missing(con, root, "snapshot.main"):
        raise StoreDamaged(
            f"{path} needs {gone[0]}, which is not there",
            notes=["the segments hold its rows"],
            help=f"delete {path.name} and run the command again; the next launch publishes a new one",
        )
    return True


def _join_snapshot(con: duckdb.DuckDBPyConnection, pending: set[str]) -> float:
    """Put the snapshot's rows beside the pending ones, under the tables' names. Returns its age in seconds."""
    for table in SEGMENT_TABLES.values():
        columns = ", ".join(f'"{name}"' for name in table.names)
        stored = table.stored
        con.execute(f'ALTER TABLE "{stored}" RENAME TO "{stored}_pending"')
        union = f" UNION ALL SELECT {columns} FROM {stored}_pending" if table.name in pending else ""
        con.execute(f"CREATE VIEW {stored} AS SELECT {columns} FROM snapshot.main.{stored}{union}")
    for table in (LEDGER, SEALED):
        con.execute(f"CREATE VIEW {table.stored} AS SELECT * FROM snapshot.main.{table.stored}")
    con.execute("CREATE TABLE meta AS SELECT * FROM snapshot.main.meta WHERE key <> 'pending_segments'")
    return _age(con)


def _age(con: duckdb.DuckDBPyConnection) -> float:
    found = con.execute("SELECT value FROM meta WHERE key = 'published_at'").fetchone()
    published = datetime.fromisoformat(found[0]) if found else datetime.now(UTC)
    return max(0.0, (datetime.now(UTC) - published).total_seconds())


def _is_current(con: duckdb.DuckDBPyConnection, root: Path) -> bool:
    """Whether the snapshot has our views and every claim, end and document; its segments were compared before."""
    views = con.execute("SELECT value FROM snapshot.meta WHERE key = 'view_version'").fetchone()
    if views != (view_version(),):
        return False
    attempts = con.execute("SELECT study_id, trial_id, attempt, ended_at IS NOT NULL FROM snapshot.attempts").fetchall()
    if {tuple(claim) for claim in layout.list_claims(root)} != set(attempts):
        return False
    known = set(con.execute("SELECT study_id, table_name, document FROM snapshot.documents").fetchall())
    newest = {
        (study, table, path.relative_to(root).as_posix())
        for (study, table), path in layout.newest_documents(root).items()
        if table in DOCUMENT_TABLES
    }
    locks = con.execute("SELECT count(*) FROM snapshot.claim_locks").fetchone()
    return known == newest and locks == (sum(1 for _ in (root / "claims").glob("study=*/*@*.json")),)


def _load_attempts(con: duckdb.DuckDBPyConnection, root: Path, *, snapshot: bool) -> None:
    """Attempts that the snapshot knows to have ended are taken from it; the others' files are read."""
    ended: set[tuple[str, str, int]] = set()
    if snapshot:
        con.execute("INSERT INTO attempts BY NAME SELECT * FROM snapshot.attempts WHERE ended_at IS NOT NULL")
        ended = set(con.execute("SELECT study_id, trial_id, attempt FROM attempts").fetchall())
        con.execute("INSERT INTO environments BY NAME SELECT * FROM snapshot.environments")
    claims = [c for c in layout.list_claims(root) if (c.study, c.trial, c.attempt) not in ended]
    if claims:
        load_attempts(con, root, claims)


def _load_documents(con: duckdb.DuckDBPyConnection, root: Path) -> None:
    for (study, table), path in layout.newest_documents(root).items():
        if table in DOCUMENT_TABLES:
            con.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM {document_rows(path)}')
            relative = path.relative_to(root).as_posix()
            con.execute("INSERT INTO documents VALUES (?, ?, ?)", [study, table, relative])
    if locked := layout.names_of(root / "claims", "study"):
        insert(con, MIRRORED_LOCKS.base, lock_rows(root, locked))


def lock_down(con: duckdb.DuckDBPyConnection) -> None:
    """No files, no network, no extensions, no settings from here on; what was attached read-only stays readable."""
    for setting in (
        "enable_external_access = false",
        "autoload_known_extensions = false",
        "autoinstall_known_extensions = false",
        "python_enable_replacements = false",
        "lock_configuration = true",
    ):
        con.execute(f"SET {setting}")


def fetch(con: duckdb.DuckDBPyConnection, query: str, params: object = None) -> pa.Table:
    found = con.sql(query, params=params)
    if found is None:  # a statement without rows
        import pyarrow as pa

        return pa.table({})
    return found.to_arrow_table()
