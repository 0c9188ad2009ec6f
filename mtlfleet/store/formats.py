"""Write an answer in the form asked for: table, csv, tsv, json, jsonl, parquet, arrow, markdown, latex.

Text is kept from doing harm where it goes: no terminal escapes in tables, no formulas in CSV (a text cell that a
spreadsheet would compute gets a leading apostrophe), no active characters in Markdown and LaTeX. NaN and infinities
are ``nan``/``inf`` in text, the strings "NaN", "Infinity", "-Infinity" in JSON (which has no such numbers), and
themselves in Parquet and Arrow."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import IO, Any

from mtlfleet.store.plain_text import plain

FORMATS = ("table", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "markdown", "latex")
BINARY = ("parquet", "arrow")
TABLE_ROWS = 10_000

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def write(kind: str, reader: Any, out: IO[bytes], *, limit: int | None = None) -> int:
    """Write every batch of ``reader`` (a ``pyarrow.RecordBatchReader``) to ``out``. Returns the number of rows."""
    if kind in BINARY:
        return _binary(kind, reader, out)
    return write_rows(kind, list(reader.schema.names), (row for batch in reader for row in _tuples(batch)), out, limit)


def write_rows(
    kind: str, names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[bytes], limit: int | None = None
) -> int:
    """Write rows in one of the text formats; a table shows the first ``limit`` (default ``TABLE_ROWS``)."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        if kind == "table":
            return _table(names, rows, text, TABLE_ROWS if limit is None else limit)
        return _TEXT[kind](names, rows, text)
    finally:
        text.flush()
        text.detach()


def _tuples(batch: Any) -> Iterator[tuple[Any, ...]]:
    columns = [column.to_pylist() for column in batch.columns]
    return iter(zip(*columns, strict=True)) if columns else iter(())


def _binary(kind: str, reader: Any, out: IO[bytes]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    opened = (
        pq.ParquetWriter(out, reader.schema, compression="zstd")
        if kind == "parquet"
        else pa.ipc.new_stream(out, reader.schema)
    )
    with opened as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def jsonable(value: Any) -> Any:
    """``value`` as strict JSON can say it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def cell(value: Any) -> str:
    """One value as plain text; NULL is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return value
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return json.dumps(jsonable(value)) if isinstance(value, (list, dict, tuple)) else str(value)


def harmless(value: Any) -> str:
    """A CSV cell that a spreadsheet does not compute.

    >>> harmless("=1+1"), harmless(-1.5)
    ("'=1+1", '-1.5')
    """
    text = cell(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str], delimiter: str = ",") -> int:
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    count = 0
    for row in rows:
        writer.writerow([harmless(v) for v in row])
        count += 1
    return count


def _tsv(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str]) -> int:
    return _csv(names, rows, out, delimiter="\t")


def _json(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str]) -> int:
    count = 0
    out.write("[")
    for row in rows:
        out.write(",\n " if count else "\n ")
        out.write(_object(names, row))
        count += 1
    out.write("\n]\n" if count else "]\n")
    return count


def _jsonl(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str]) -> int:
    count = 0
    for row in rows:
        out.write(_object(names, row) + "\n")
        count += 1
    return count


def _object(names: Sequence[str], row: Sequence[Any]) -> str:
    values = {name: jsonable(v) for name, v in zip(names, row, strict=True)}
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def shown(value: Any) -> str:
    """A value for people: six significant digits, no escapes."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain(cell(value)) if value is not None else ""


def text_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns, numbers to the right."""
    cells = [[shown(v) for v in row] for row in rows]
    widths = [max([len(n), *(len(r[i]) for r in cells)]) for i, n in enumerate(names)]
    right = [
        any(isinstance(r[i], (int, float)) and not isinstance(r[i], bool) for r in rows) for i in range(len(names))
    ]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line([plain(n) for n in names]), "  ".join("-" * w for w in widths), *map(line, cells)]) + "\n"


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str], limit: int) -> int:
    kept: list[Sequence[Any]] = []
    count = 0
    for row in rows:
        count += 1
        if count <= limit:
            kept.append(row)
    out.write(text_table(names, kept))
    if count > limit:
        out.write(f"... {count - limit} more rows; --limit shows more, --format csv gives all\n")
    return count


def _markdown(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str]) -> int:
    def line(values: Iterable[str]) -> str:
        return "| " + " | ".join(values) + " |\n"

    out.write(line(_escaped_markdown(n) for n in names))
    out.write("|" + "---|" * len(names) + "\n")
    count = 0
    for row in rows:
        out.write(line(_escaped_markdown(shown(v)) for v in row))
        count += 1
    return count


def _escaped_markdown(text: str) -> str:
    for character in "\\`*_[]<>|":
        text = text.replace(
            character, f"\\{character}" if character not in "<>" else f"&{'lt' if character == '<' else 'gt'};"
        )
    return text


def _latex(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str]) -> int:
    def line(values: Iterable[str]) -> str:
        return " & ".join("".join(_LATEX.get(c, c) for c in v) for v in values) + r" \\" + "\n"

    out.write(f"\\begin{{tabular}}{{{'l' * len(names)}}}\n\\toprule\n{line(names)}\\midrule\n")
    count = 0
    for row in rows:
        out.write(line(shown(v) for v in row))
        count += 1
    out.write("\\bottomrule\n\\end{tabular}\n")
    return count


_TEXT = {
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _jsonl,
    "markdown": _markdown,
    "latex": _latex,
}
