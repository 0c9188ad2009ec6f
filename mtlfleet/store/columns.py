"""What a column and a table of the store are, in Arrow's types and in DuckDB's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1

Kind = Literal["text", "json", "int", "int32", "float", "float32", "bool", "time", "texts", "floats"]


@cache
def _arrow() -> Mapping[str, Any]:
    """Arrow's types; imported when asked for, because a query that is answered as text needs no Arrow."""
    import pyarrow as pa

    return {
        "text": pa.string(),
        "json": pa.string(),
        "int": pa.int64(),
        "int32": pa.int32(),
        "float": pa.float64(),
        "float32": pa.float32(),
        "bool": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
        "texts": pa.list_(pa.string()),
        "floats": pa.list_(pa.float32()),
    }


_SQL = {
    "text": "VARCHAR",
    "json": "JSON",
    "int": "BIGINT",
    "int32": "INTEGER",
    "float": "DOUBLE",
    "float32": "FLOAT",
    "bool": "BOOLEAN",
    "time": "TIMESTAMPTZ",
    "texts": "VARCHAR[]",
    "floats": "FLOAT[]",
}


class Column(NamedTuple):
    """One column. ``unit`` is empty for names and counts."""

    name: str
    kind: Kind
    comment: str
    unit: str = ""

    @property
    def note(self) -> str:
        return f"{self.comment} [{self.unit}]" if self.unit else self.comment


class Table(NamedTuple):
    """One table; ``base`` is what DuckDB calls its raw rows where the plain name is a view of those that count. Of a
    ``bulk`` table some rows may be sealed, see ``sealing``."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    base: str
    bulk: bool = False

    @property
    def stored(self) -> str:
        """The DuckDB table with the rows that are in the file; of a bulk table the base is a view of all rows."""
        return f"unsealed_{self.base}" if self.bulk else self.base

    def among(self, names: Collection[str] | None) -> bool:
        """Whether one of its names is among these; None: all are."""
        return names is None or not {self.name, self.base, self.stored}.isdisjoint(names)

    @property
    def arrow(self) -> pa.Schema:
        """Arrow schema with the schema version, comments and units in its metadata."""
        import pyarrow as pa

        fields = [
            pa.field(c.name, _arrow()[c.kind], metadata={"comment": c.comment, "unit": c.unit}) for c in self.columns
        ]
        return pa.schema(fields, metadata={"mtlfleet_schema_version": str(SCHEMA_VERSION), "mtlfleet_table": self.name})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def ddl(self, schema: str = "main") -> str:
        columns = ", ".join(f'"{c.name}" {_SQL[c.kind]}' for c in self.columns)
        return f'CREATE TABLE "{schema}"."{self.stored}" ({columns})'


def table(name: str, comment: str, *columns: tuple[str, ...], base: str = "", bulk: bool = False) -> Table:
    return Table(name, comment, tuple(Column(*c) for c in columns), base or name, bulk)  # type: ignore[arg-type]
