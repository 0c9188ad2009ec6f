"""The stamp of a segment: a SHA-256 inside the Parquet file, over every other byte of it.

Parquet leaves bytes between the last page and the footer to nobody: readers go by the footer's offsets, which count
from the start of the file. There stand 40 bytes: a magic word and the digest of everything before and after. A flipped
bit in data, footer or stamp is then seen without a second file and without knowing Parquet. The footer says
``mtlfleet_stamp``, so a lost stamp is seen as well. Files written before the stamp existed have neither and are taken
as they are.

Before the stamp stands what an ingester wants to know of the footer, as JSON, its length and a magic word: reading the
footer of a small file costs four times as much as verifying it. Files without it are read by their footer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

MAGIC = b"MTLSHA2\n"
_SIZE = len(MAGIC) + 32
_TOLD = b"MTLTOLD\n"
_FACTS = ("rows", "schema_version", "min_step", "max_step", "columns")
_END = b"PAR1"


@cache
def version_here() -> str:
    """The mtlfleet that writes; ``unknown`` from a source tree that was never installed."""
    try:
        return version("mtlfleet")
    except PackageNotFoundError:
        return "unknown"


class Damaged(ValueError):
    """Not the bytes that were written."""


class Seen(NamedTuple):
    """What the bytes of one sound file say about it."""

    rows: int
    size_bytes: int
    schema_version: int
    sha256: str
    min_step: int | None
    max_step: int | None
    columns: str  # a hash of their names and types; empty where that is not known


def encode(content: Any, facts: Mapping[str, str]) -> bytes:
    """An Arrow table as a stamped Parquet file, with ``facts`` as key-value metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    repeated = [f.name for f in content.schema if pa.types.is_string(f.type) or f.name == "attempt"]
    sink = pa.BufferOutputStream()
    footers: list[Any] = []
    with pq.ParquetWriter(
        sink, content.schema, compression="zstd", store_schema=False, use_dictionary=repeated,
        metadata_collector=footers,
    ) as parquet:  # fmt: skip
        parquet.write_table(content)
        parquet.add_key_value_metadata({**facts, "mtlfleet_stamp": "sha256"})
    columns = ",".join(f"{field.name} {field.type}" for field in content.schema)
    told = {**_of_footer(footers[0]), "columns": hashlib.sha256(columns.encode()).hexdigest()[:16]}
    return _stamped(sink.getvalue().to_pybytes(), json.dumps(told).encode())


def _footer_at(raw: memoryview | bytes) -> int:
    """Where the footer starts. Raises Damaged."""
    if len(raw) < 12 or bytes(raw[:4]) != _END or bytes(raw[-4:]) != _END:
        raise Damaged("not a whole Parquet file")
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    if start < 4:
        raise Damaged("its footer is longer than the file")
    return start


def _digest(*parts: memoryview | bytes) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()


def _stamped(raw: bytes, told: bytes) -> bytes:
    cut = _footer_at(raw)
    body, footer = memoryview(raw)[:cut], memoryview(raw)[cut:]
    before = b"".join((body, told, len(told).to_bytes(4, "little"), _TOLD))
    return b"".join((before, MAGIC, _digest(before, footer), footer))


def verify(raw: bytes) -> str | None:
    """The digest in hex if ``raw`` is what was written, None if it was written without a stamp. Raises Damaged."""
    view = memoryview(raw)
    cut = _footer_at(view)
    at = cut - _SIZE
    if at < 4 or bytes(view[at : at + len(MAGIC)]) != MAGIC:
        if b"mtlfleet_stamp" in raw[cut:]:
            raise Damaged("its stamp is gone")
        return None
    told = bytes(view[at + len(MAGIC) : cut])
    if _digest(view[:at], view[cut:]) != told:
        raise Damaged("its bytes are not those that were written: SHA-256 differs")
    return told.hex()


def look(path: Path) -> Seen:
    """Verify one file and find what it says about itself. Raises Damaged, OSError."""
    raw = path.read_bytes()
    digest = verify(raw)
    facts = (_told(raw) if digest else None) or _read_footer(raw)
    return Seen(size_bytes=len(raw), sha256=digest or hashlib.sha256(raw).hexdigest(), **facts)


def _told(raw: bytes) -> dict[str, Any] | None:
    """What stands before the stamp of a verified file; None where nothing does."""
    end = _footer_at(raw) - _SIZE - len(_TOLD)
    if end < 8 or raw[end : end + len(_TOLD)] != _TOLD:
        return None
    start = end - 4 - int.from_bytes(raw[end - 4 : end], "little")
    told = json.loads(raw[start : end - 4])
    return {name: told[name] for name in _FACTS} if told.keys() >= set(_FACTS) else None


def _read_footer(raw: bytes) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {**_of_footer(pq.read_metadata(pa.BufferReader(raw))), "columns": ""}
    except (OSError, pa.ArrowException) as error:
        raise Damaged(str(error)) from error


def _of_footer(footer: Any) -> dict[str, Any]:
    low, high = _steps(footer)
    version = int((footer.metadata or {}).get(b"mtlfleet_schema_version", b"1"))
    return {"rows": footer.num_rows, "schema_version": version, "min_step": low, "max_step": high}


def _steps(footer: Any) -> tuple[int | None, int | None]:
    """Smallest and largest ``step``, from the statistics of the row groups."""
    lows, highs = [], []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        column = group.column(3)  # study, trial, attempt, step: the key of every segment table
        if column.path_in_schema != "step" or not column.is_stats_set:
            return None, None
        lows.append(column.statistics.min)
        highs.append(column.statistics.max)
    return min(lows, default=None), max(highs, default=None)
