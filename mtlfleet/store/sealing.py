"""Bulk rows of ended trials, moved out of the published file: one Parquet file per trial and table.

A file that is copied at each publication must not grow with every step of every trial. When it is larger than it may
be, the step metrics and task gradients of trials whose newest attempt has ended are written to files of their own, and
the private file is made anew without those rows. A sealed file is made from the segments that the ledger names and
carries their hash in its name, so what it holds never changes: rows that come later stand in the private file until
the trial is sealed again, into a file of another name. Which rows count is said by the views, as everywhere: a later
attempt needs no new file. A file that no published file names is a killed ingester's or was followed by another one;
nobody reads it, and ``mtlfleet gc`` collects it. Segments stay what everything can be made from.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from mtlfleet.store import durable, layout, stamp
from mtlfleet.store.database import quoted, sealed_rows
from mtlfleet.store.folder import READ_ONLY
from mtlfleet.store.schema import SEALED, SEGMENT_TABLES

# A trial may be sealed again and again, so the whole file is made anew only when a good part of it goes.
WORTHWHILE = 4  # one part in so many of what is not sealed, by the size of the segments

_RIPE = f"""
WITH over AS (
  SELECT study_id, trial_id FROM attempts GROUP BY ALL HAVING arg_max(ended_at IS NOT NULL, attempt)
), known AS (
  SELECT study_id, trial_id, table_name, sum(rows) AS rows, sum(bytes) AS bytes,
         string_agg(segment || ' ' || sha256, chr(10) ORDER BY segment) AS segments
  FROM segments GROUP BY ALL
), here AS (
  SELECT k.*, s.path AS sealed, k.bytes * (1 - coalesce(s.rows, 0) / nullif(k.rows, 0)) AS unsealed
  FROM known k LEFT JOIN sealed s USING (study_id, trial_id, table_name)
), ripe AS (
  SELECT * FROM here SEMI JOIN over USING (study_id, trial_id)
  WHERE unsealed > 0 AND table_name IN ({", ".join(quoted(t.name) for t in SEGMENT_TABLES.values() if t.bulk)})
)
SELECT study_id, trial_id, table_name, segments, sealed FROM ripe
WHERE (SELECT sum(unsealed) FROM ripe) * $worthwhile >= (SELECT sum(unsealed) FROM here)
ORDER BY ALL
"""


class Ripe(NamedTuple):
    """Rows that can be sealed: of one trial and table, as of the ledger's ``segments``; ``sealed`` holds some."""

    study: str
    trial: str
    table: str
    segments: str
    sealed: str | None


def ripe(con: duckdb.DuckDBPyConnection) -> list[Ripe]:
    """What a private file can be relieved of; nothing where that would not make it a good deal smaller."""
    return [Ripe(*row) for row in con.execute(_RIPE, {"worthwhile": WORTHWHILE}).fetchall()]


def seal(con: duckdb.DuckDBPyConnection, root: Path, rows: Ripe) -> pa.Table:
    """Write the file, durably. Returns the row of ``sealed`` about it. Raises EnvironmentProblem for a full disk."""
    table = SEGMENT_TABLES[rows.table]
    source = hashlib.sha256(f"{table.ddl()}\n{rows.segments}".encode()).hexdigest()[:16]
    key = layout.sealed_key(rows.study, rows.trial, rows.table, source)
    columns = ", ".join(f'"{name}"' for name in table.names)
    parts = [f"SELECT {columns} FROM {table.stored} WHERE (study_id, trial_id) = ($study, $trial)"]
    if rows.sealed is not None:
        parts.append(f"SELECT {columns} FROM {sealed_rows([str(root / rows.sealed)])}")
    query = f"SELECT * FROM ({' UNION ALL '.join(parts)}) ORDER BY attempt, step"
    found = con.sql(query, params={"study": rows.study, "trial": rows.trial}).to_arrow_table().cast(table.arrow)
    durable.make_folder((root / key).parent)
    durable.replace(root / key, stamp.encode(found, {}), mode=READ_ONLY)
    facts = {
        "study_id": rows.study,
        "trial_id": rows.trial,
        "table_name": rows.table,
        "path": key,
        "rows": found.num_rows,
        "bytes": (root / key).stat().st_size,
        "sealed_at": datetime.now(UTC),
    }
    return pa.Table.from_pylist([facts], schema=SEALED.arrow)
