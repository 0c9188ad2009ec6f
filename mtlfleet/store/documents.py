"""Documents: what the driver knows of a study.

Per (study, table) the file with the highest number holds all current rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.place import Place, at
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


def _newest(place: Place, study: str, table: str) -> int:
    """Number of the document that holds; 0 when nothing was written."""
    return layout.documents_among(place.names(layout.study_key("documents", study))).get(table, 0)


def read_document(root: Root, study: str, table: str) -> list[dict[str, Any]]:
    """The current rows; none when nothing was written."""
    place = at(root)
    number = _newest(place, study, table)
    if not number:
        return []
    content = place.read(layout.document_key(study, table, number))
    rows: list[dict[str, Any]] = pq.ParquetFile(pa.BufferReader(content)).read().to_pylist()
    return rows


def _created(root: Root, study: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A study keeps its first ``created_at``: launching again is not a change."""
    before = read_document(root, study, "studies")
    created = before[0]["created_at"] if before else datetime.now(UTC)
    return [{"created_at": created, **row} for row in rows]


def write_document(root: Root, study: str, table: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Make ``rows`` the current content of ``table`` for ``study``; ``study_id`` is filled in.

    Returns the new file's key, or None when the newest one says the same. Dicts become JSON in JSON columns, ISO text
    becomes time in time columns; a ``studies`` row without ``created_at`` keeps the first one. Raises ValueError
    for a stray column.
    """
    if table not in DOCUMENT_TABLES:
        known = ", ".join(DOCUMENT_TABLES)
        raise ValueError(f"no document is called `{table}`; known: {known} (claim locks: call register_claim)")
    if table == "studies":
        rows = _created(root, study, rows)
    place = at(root)
    content = _arrow(DOCUMENT_TABLES[table], study, rows)
    sink = pa.BufferOutputStream()
    pq.write_table(content, sink, compression="zstd")
    encoded = sink.getvalue().to_pybytes()
    while True:
        number = _newest(place, study, table)
        if number and _hash(place.read(layout.document_key(study, table, number))) == _hash(encoded):
            return None
        key = layout.document_key(study, table, number + 1)
        if place.put_new(key, encoded):
            return key


def _hash(encoded: bytes) -> bytes:
    found: bytes = pq.read_metadata(pa.BufferReader(encoded)).metadata.get(_HASH, b"")
    return found
