"""Documents: what the driver knows of a study.

Per (study, table) the file with the highest number holds all current rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtlfleet.store import durable, layout
from mtlfleet.store.schema import DOCUMENT_TABLES, Table

_HASH = b"content_sha256"


def _value(kind: str, value: Any) -> Any:
    if kind == "json" and value is not None and not isinstance(value, str):
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    if kind == "time" and isinstance(value, str):
        return datetime.fromisoformat(value)
    return list(value) if kind in ("texts", "floats") and value is not None else value


def _arrow(table: Table, study: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    for row in rows:
        stray = sorted(set(row) - set(table.names))
        if stray:
            raise ValueError(
                f"document {table.name}: no such column {', '.join(stray)}; known: {', '.join(table.names)}"
            )
    columns = {c.name: [_value(c.kind, row.get(c.name)) for row in rows] for c in table.columns}
    columns["study_id"] = [study] * len(rows)
    arrays = [pa.array(columns[f.name], type=f.type) for f in table.arrow]
    found = pa.Table.from_arrays(arrays, schema=table.arrow)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, found.schema) as stream:
        stream.write_table(found)
    digest = hashlib.sha256(sink.getvalue()).hexdigest().encode()
    return found.replace_schema_metadata({**found.schema.metadata, _HASH: digest})


def read_document(root: Path | str, study: str, table: str) -> list[dict[str, Any]]:
    """The current rows; none when nothing was written."""
    path = layout.newest_documents(Path(root)).get((study, table))
    return pq.ParquetFile(path).read().to_pylist() if path else []


def _created(root: Path, study: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A study keeps its first ``created_at``: launching again is not a change."""
    before = read_document(root, study, "studies")
    created = before[0]["created_at"] if before else datetime.now(UTC)
    return [{"created_at": created, **row} for row in rows]


def write_document(root: Path | str, study: str, table: str, rows: Sequence[Mapping[str, Any]]) -> Path | None:
    """Make ``rows`` the current content of ``table`` for ``study``; ``study_id`` is filled in.

    Returns the new file, or None when the newest one says the same. Dicts become JSON in JSON columns, ISO text
    becomes time in time columns; a ``studies`` row without ``created_at`` keeps the first one. Raises ValueError
    for a stray column.
    """
    root = Path(root)
    if table not in DOCUMENT_TABLES:
        known = ", ".join(DOCUMENT_TABLES)
        raise ValueError(f"no document is called `{table}`; known: {known} (claim locks: call register_claim)")
    if table == "studies":
        rows = _created(root, study, rows)
    content = _arrow(DOCUMENT_TABLES[table], study, rows)
    folder = layout.studies_folder(root, "documents", study)
    durable.make_folder(folder)
    while True:
        number = max(layout.document_numbers(folder, table), default=0)
        newest = folder / f"{table}-{number:06d}.parquet"
        if number and pq.read_metadata(newest).metadata.get(_HASH) == content.schema.metadata[_HASH]:
            return None
        path = folder / f"{table}-{number + 1:06d}.parquet"
        if durable.create(path, lambda temporary: pq.write_table(content, temporary, compression="zstd")):
            path.chmod(0o444)
            return path
