"""Which queries only read: an allow-list over DuckDB's own syntax tree.

The statement type is not enough: ``WITH x AS (COPY (...) TO 'f') FROM x`` and ``WITH x AS (INSERT ... RETURNING *)
...`` parse as SELECT. This layer works everywhere; where the kernel has Landlock, writes fail a second time there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from mtlfleet.errors import QueryFailed, QueryRefused

_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_TABLE_FUNCTIONS = {
    "duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_schemas", "duckdb_settings", "duckdb_tables",
    "duckdb_types", "duckdb_views", "generate_series", "json_each", "json_tree", "pragma_show", "pragma_table_info",
    "pragma_version", "range", "repeat", "repeat_row", "unnest",
}  # fmt: skip
_FUNCTIONS_REFUSED = {
    "add_parquet_key", "create_sort_key", "from_substrait", "getenv", "json_execute_serialized_sql",
    "json_serialize_plan", "nextval", "query", "query_table", "set_config", "sniff_csv", "which_secret", "write_log",
}  # fmt: skip
_READS_FILES = ("read_", "glob", "parquet_", "sqlite_", "postgres_", "mysql_", "iceberg_", "delta_")


def check(query: str) -> None:
    """Return if ``query`` is one statement that only reads. Raises QueryRefused with the reason, QueryFailed for bad
    SQL."""
    with duckdb.connect(":memory:") as con:
        row = con.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
        tree = json.loads(row[0]) if row else {}
        if tree.get("error"):
            _explain(con, query, tree)
    statements = tree.get("statements", [])
    if len(statements) != 1:
        found = "nothing" if not statements else f"{len(statements)} statements"
        raise QueryRefused(f"expected one SELECT, found {found}", help="one query per call, without a second `;`")
    for node in _walk(statements):
        _check_node(node)


def _explain(con: duckdb.DuckDBPyConnection, query: str, tree: dict[str, Any]) -> None:
    try:
        kinds = [str(s.type).rpartition(".")[2] for s in con.extract_statements(query)]
    except duckdb.Error as error:
        raise QueryFailed(str(error)) from None
    if kinds == ["MULTI"] or "PIVOT" in query.upper():
        raise QueryRefused(
            "a PIVOT statement cannot be checked",
            help="list the values: SELECT * FROM (PIVOT t ON column IN ('a', 'b') USING avg(value))",
        )
    if kinds == ["SELECT"]:
        raise QueryRefused(f"this query cannot be checked: {tree.get('error_message', '')}")
    raise QueryRefused(
        f"only SELECT is answered here, found {', '.join(kinds) or 'nothing'}",
        notes=["the results are read-only; nothing was run"],
        help="for anything else copy results.duckdb and open the copy",
    )


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _check_node(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _NODES:
        raise QueryRefused(
            f"a query must only read; this one holds a {kind.removesuffix('_NODE').replace('_', ' ')}",
            notes=["nothing was run"],
        )
    name = str(node.get("function_name", "")).lower()
    if kind == "TABLE_FUNCTION":
        called = str((node.get("function") or {}).get("function_name", "")).lower()
        if called not in _TABLE_FUNCTIONS:
            raise QueryRefused(
                f"table function `{called}` is not on the list of those that read only this store",
                notes=[f"allowed: {', '.join(sorted(_TABLE_FUNCTIONS))}"],
            )
    if name in _FUNCTIONS_REFUSED or name.startswith(_READS_FILES):
        raise QueryRefused(f"function `{name}` reaches outside this store", notes=["nothing was run"])
