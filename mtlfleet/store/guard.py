"""Which queries only read: an allow-list over DuckDB's own syntax tree.

The statement type is not enough: ``WITH x AS (COPY (...) TO 'f') FROM x`` and ``WITH x AS (INSERT ... RETURNING *)
...`` parse as SELECT. This layer works everywhere; where the kernel has Landlock, writes fail a second time there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
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
    "add_parquet_key", "create_sort_key", "currval", "from_substrait", "getenv", "json_execute_serialized_sql",
    "json_serialize_plan", "nextval", "query", "query_table", "set_config", "setval", "sleep_ms", "sniff_csv",
    "which_secret", "write_log",
}  # fmt: skip
_READS_FILES = ("read_", "glob", "parquet_", "sqlite_", "postgres_", "mysql_", "iceberg_", "delta_")
_CATALOGS = {"", "memory", "snapshot", "system", "temp"}
_SCHEMAS = {"", "main", "information_schema", "pg_catalog"}
_NAME = re.compile(r"[^\W\d][\w ]*")  # DuckDB takes any other table name for a file or an address


def check(query: str, con: duckdb.DuckDBPyConnection | None = None, *, kernel: bool = False) -> None:
    """Return if ``query`` is one statement that only reads. It is parsed in ``con``, and not run.

    ``kernel``: Landlock is in force in this process. A PIVOT statement, which DuckDB cannot show as a tree, is then
    let through: with the configuration locked it reaches no other file, and it can write none. Raises QueryRefused
    with the reason, QueryFailed for bad SQL.
    """
    with nullcontext(con) if con is not None else duckdb.connect(":memory:", config={"threads": 1}) as con:
        row = con.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
        try:
            tree = json.loads(row[0]) if row else {}
        except RecursionError:
            raise QueryRefused("the query is nested too deeply to be checked", notes=["nothing was run"]) from None
        if tree.get("error"):
            _explain(con, query, tree, kernel=kernel)
            return
    statements = tree.get("statements", [])
    if len(statements) != 1:
        found = "nothing" if not statements else f"{len(statements)} statements"
        raise QueryRefused(f"expected one SELECT, found {found}", help="one query per call, without a second `;`")
    for node in _walk(statements):
        _check_node(node)


def _explain(con: duckdb.DuckDBPyConnection, query: str, tree: dict[str, Any], *, kernel: bool) -> None:
    """Say why a query without a tree is refused; return if it need not be."""
    try:
        kinds = [_kind(statement) for statement in con.extract_statements(query)]
    except duckdb.Error as error:
        raise QueryFailed(str(error)) from None
    pivot = kinds == ["MULTI"] and "PIVOT" in query.upper()
    if pivot and kernel:
        return
    if pivot:
        raise QueryRefused(
            "a PIVOT statement cannot be checked, and this system has no Landlock to run it safely without",
            help="list the values: SELECT * FROM (PIVOT t ON column IN ('a', 'b') USING avg(value))",
        )
    if kinds == ["SELECT"]:
        raise QueryRefused(f"this query cannot be checked: {tree.get('error_message', '')}")
    raise QueryRefused(
        f"only SELECT is answered here, found {', '.join(kinds) or 'nothing'}",
        notes=["the results are read-only; nothing was run"],
        help="for anything else copy results.duckdb and open the copy",
    )


def _kind(statement: duckdb.Statement) -> str:
    try:
        return str(statement.type).rpartition(".")[2]
    except ValueError:  # DuckDB has more kinds than its Python client knows
        return "another statement"


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
    if kind == "BASE_TABLE":
        _check_table(node)
    if kind == "TABLE_FUNCTION":
        called = str((node.get("function") or {}).get("function_name", "")).lower()
        if called not in _TABLE_FUNCTIONS:
            raise QueryRefused(
                f"table function `{called}` is not on the list of those that read only this store",
                notes=[f"allowed: {', '.join(sorted(_TABLE_FUNCTIONS))}"],
            )
    name = str(node.get("function_name", "")).lower()
    if name in _FUNCTIONS_REFUSED or name.startswith(_READS_FILES):
        raise QueryRefused(f"function `{name}` reaches outside this store", notes=["nothing was run"])


def _check_table(node: dict[str, Any]) -> None:
    """``FROM 'x.csv'``, ``FROM x.csv`` and ``FROM 'https://...'`` are table names to the parser, files to DuckDB."""
    catalog, schema, name = (str(node.get(part) or "") for part in ("catalog_name", "schema_name", "table_name"))
    if catalog.lower() in _CATALOGS and schema.lower() in _SCHEMAS and _NAME.fullmatch(name):
        return
    shown = ".".join(part for part in (catalog, schema, name) if part)
    raise QueryRefused(
        f"`{shown}` is no table of this store; files cannot be read here",
        notes=["nothing was run"],
        help="list the tables: mtlfleet sql STUDY --names",
    )
