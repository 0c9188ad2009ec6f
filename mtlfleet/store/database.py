"""The tables and views, made in a DuckDB connection: the same for the published file and for a live query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mtlfleet.errors import StoreDamaged
from mtlfleet.store.attempts import read_claim
from mtlfleet.store.layout import Claimed, Segment
from mtlfleet.store.registration import claim_locks
from mtlfleet.store.schema import ALL_TABLES, ATTEMPTS, MIRRORED_LOCKS, SEGMENT_TABLES, Table

# 0.975 quantiles of Student's t for 1..30 degrees of freedom; beyond, the Cornish-Fisher expansion is exact to 1e-6.
_T975 = (
    "12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139, 2.200985,"
    " 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963, 2.079614, 2.073873,"
    " 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272"
)
_T975_MACRO = f"""CREATE OR REPLACE MACRO t975(df) AS CASE WHEN df <= 30 THEN ([{_T975}])[df]
  ELSE 1.959963985 + 2.372271249 / df + 2.822479 / (df * df) + 2.555850 / (df * df * df) END"""


def quoted(text: str) -> str:
    """``text`` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def create_tables(con: duckdb.DuckDBPyConnection, tables: Iterable[Table] = ALL_TABLES) -> None:
    """Empty tables."""
    con.execute(";".join(table.ddl() for table in tables))


def create_views(con: duckdb.DuckDBPyConnection) -> None:
    """The views over those tables."""
    con.execute(_T975_MACRO)
    con.execute(files("mtlfleet.store").joinpath("views.sql").read_text())


def comment(con: duckdb.DuckDBPyConnection) -> None:
    """Say in the file what each table, view and column means, with units."""
    con.execute(files("mtlfleet.store").joinpath("comments.sql").read_text())
    listed = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = current_database()"
    views = {name for (name,) in con.execute(listed).fetchall()}
    for table in ALL_TABLES:
        for name in {table.base, table.name}:
            kind = "VIEW" if name in views else "TABLE"
            con.execute(f'COMMENT ON {kind} "{name}" IS {quoted(table.comment)}')
            for column in table.columns:
                con.execute(f'COMMENT ON COLUMN "{name}"."{column.name}" IS {quoted(column.note)}')


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    con.register("incoming", rows)
    try:
        con.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM incoming')
    finally:
        con.unregister("incoming")


def read_segments(root: Path, table: Table, segments: Sequence[Segment]) -> str:
    """SELECT over segment files of one table, with explicit columns; what is missing in all files is not invented."""
    paths = ", ".join(quoted(str(root / s.path)) for s in segments)
    columns = ", ".join(f'"{name}"' for name in table.names)
    return f"SELECT {columns} FROM read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"


def load_segments(con: duckdb.DuckDBPyConnection, root: Path, segments: Sequence[Segment], *, batch: int = 500) -> None:
    """Insert the rows of segments. Raises StoreDamaged naming the file that cannot be read."""
    by_table: dict[str, list[Segment]] = {}
    for segment in segments:
        by_table.setdefault(segment.table, []).append(segment)
    for name, group in by_table.items():
        table = SEGMENT_TABLES[name]
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            try:
                con.execute(f'INSERT INTO "{table.base}" BY NAME {read_segments(root, table, part)}')
            except duckdb.Error as error:
                raise _unreadable(root, part, error) from error


def _unreadable(root: Path, segments: Sequence[Segment], error: duckdb.Error) -> StoreDamaged:
    """The error that names the damaged files among ``segments``."""
    damaged = []
    for segment in segments:
        try:
            duckdb.execute(f"SELECT count(COLUMNS(*)) FROM read_parquet({quoted(str(root / segment.path))})").fetchall()
        except duckdb.Error:
            damaged.append(str(root / segment.path))
    return StoreDamaged(
        f"{len(damaged)} segment{'s' if len(damaged) != 1 else ''} cannot be read: {first_line(error)}",
        notes=[*damaged[:8], "nothing was overwritten"],
        help="restore the files from a backup, or delete their trials' folders and launch again",
    )


def attempt_rows(root: Path, claims: Sequence[Claimed]) -> pa.Table:
    """The ``attempts`` rows of these claims, read from their files."""
    rows: list[dict[str, Any]] = []
    for claim in claims:
        found = read_claim(root, claim.study, claim.trial, claim.attempt)
        row = {name: found.get(name) for name in ATTEMPTS.names}
        for name in ("started_at", "ended_at"):
            row[name] = datetime.fromisoformat(str(row[name])) if row[name] else None
        rows.append({**row, "study_id": claim.study, "trial_id": claim.trial, "attempt": claim.attempt})
    return pa.Table.from_pylist(rows, schema=ATTEMPTS.arrow)


def lock_rows(root: Path, studies: Iterable[str]) -> pa.Table:
    """The ``claim_locks`` rows: the registrations on disk."""
    import json

    rows = [
        {
            "study_id": study,
            "claim_id": lock["claim_id"],
            "number": lock["number"],
            "registration": lock["payload"].get("registration"),
            "registered_at": datetime.fromisoformat(lock["registered_at"]),
            "payload": json.dumps(lock["payload"], sort_keys=True),
        }
        for study in studies
        for lock in claim_locks(root, study)
    ]
    return pa.Table.from_pylist(rows, schema=MIRRORED_LOCKS.arrow)


def document_rows(path: Path) -> str:
    """A document's file as a SQL table."""
    return f"read_parquet({quoted(str(path))}, hive_partitioning = false)"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
