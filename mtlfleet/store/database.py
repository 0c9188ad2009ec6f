"""The tables and views, made in a DuckDB connection: the same for the published file and for a live query."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.store import stamp
from mtlfleet.store.layout import Segment
from mtlfleet.store.schema import ALL_TABLES, SCHEMA_VERSION, SEGMENT_TABLES, Table
from mtlfleet.store.stamp import Seen

if TYPE_CHECKING:  # Arrow is imported where rows are made: a query over a current snapshot makes none
    import pyarrow as pa

SMALL_BYTES = 100_000  # of a segment; one thread reads such files for less

# 0.975 quantiles of Student's t for 1..30 degrees of freedom; beyond, the Cornish-Fisher expansion is exact to 1e-6.
_T975 = (
    "12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139, 2.200985,"
    " 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963, 2.079614, 2.073873,"
    " 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272"
)
_T975_MACRO = f"""CREATE OR REPLACE MACRO t975(df) AS CASE WHEN df <= 30 THEN ([{_T975}])[df]
  ELSE 1.959963985 + 2.372271249 / df + 2.822479 / (df * df) + 2.555850 / (df * df * df) END"""


# Words of queries that may ask which views there are.
_CATALOGUE = re.compile(r"duckdb_|information_schema|pg_|pragma|show|describe|summarize|sqlite_master", re.IGNORECASE)


def quoted(text: str) -> str:
    """``text`` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def create_tables(con: duckdb.DuckDBPyConnection, tables: Iterable[Table] = ALL_TABLES) -> None:
    """Empty tables."""
    con.execute(";".join(table.ddl() for table in tables))


def create_views(con: duckdb.DuckDBPyConnection, folder: str = "", *, asked: str | None = None) -> None:
    """The views over those tables. ``folder`` goes before the paths of sealed files, which are relative.

    ``asked``: only the views that this query can name, which saves a tenth of a second, and all of them where it may
    ask what there is.
    """
    con.execute(_T975_MACRO)
    for table in SEGMENT_TABLES.values():
        if table.bulk:
            con.execute(_all_rows(table, [f"{folder}{path}" for path in sealed_paths(con, table=table.name)]))
    con.execute("".join(_views().values() if asked is None or _CATALOGUE.search(asked) else _named_in(asked)))


@cache
def _views() -> Mapping[str, str]:
    """View -> the statement that makes it, in the order in which they can be made."""
    text = files("mtlfleet.store").joinpath("views.sql").read_text()
    return {found[1]: found[0] for found in re.finditer(r"CREATE OR REPLACE VIEW (\w+).*?;\n", text, re.DOTALL)}


def _named_in(query: str) -> list[str]:
    """The statements of the views whose names stand in the query, or in one of these."""
    found: set[str] = set()
    pending = [query]
    while pending:
        words = {word.lower() for word in re.findall(r"\w+", pending.pop())}
        new = words & _views().keys() - found
        found |= new
        pending += [_views()[name] for name in new]
    return [statement for name, statement in _views().items() if name in found]


def _all_rows(table: Table, sealed: Sequence[str]) -> str:
    """The view of a bulk table's rows, in the file and in sealed files alike."""
    columns = ", ".join(f'"{name}"' for name in table.names)
    rows = f"SELECT {columns} FROM {table.stored}"
    if sealed:
        rows += f" UNION ALL SELECT {columns} FROM {sealed_rows(sealed)}"
    return f"CREATE OR REPLACE VIEW {table.base} AS {rows}"


def sealed_rows(paths: Sequence[str]) -> str:
    """Sealed files of one table as a SQL table: all are of this version, so all have the columns of the first."""
    return f"read_parquet([{', '.join(map(quoted, paths))}], hive_partitioning = false)"


def sealed_paths(con: duckdb.DuckDBPyConnection, schema: str = "main", table: str = "%") -> list[str]:
    """The sealed files that a file of ours names, relative to the root."""
    query = f"SELECT path FROM {schema}.sealed WHERE table_name LIKE ? ORDER BY path"
    return [path for (path,) in con.execute(query, [table]).fetchall()]


def sealed_missing(con: duckdb.DuckDBPyConnection, root: Path, schema: str = "main") -> list[str]:
    """Those that are not there."""
    return [path for path in sealed_paths(con, schema) if not (root / path).exists()]


def _comments() -> str:
    return files("mtlfleet.store").joinpath("comments.sql").read_text()


def comment(con: duckdb.DuckDBPyConnection) -> None:
    """Say in the file what each table, view and column means, with units."""
    con.execute(_comments())
    listed = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = current_database()"
    views = {name for (name,) in con.execute(listed).fetchall()}
    said, notes = [], {}
    for table in reversed(ALL_TABLES):
        for name in sorted({table.base, table.stored, table.name}):
            kind = "VIEW" if name in views else "TABLE"
            said.append(f'COMMENT ON {kind} "{name}" IS {quoted(table.comment)}')
            said += [f'COMMENT ON COLUMN "{name}"."{c.name}" IS {quoted(c.note)}' for c in table.columns]
        notes.update({c.name: c.note for c in table.columns})
    con.execute(";".join(said))
    # A view's column that is passed on from a table means what it means there.
    silent = (
        "SELECT table_name, column_name FROM duckdb_columns()"
        " WHERE NOT internal AND comment IS NULL AND database_name = current_database()"
    )
    passed_on = [(view, name) for view, name in con.execute(silent).fetchall() if name in notes]
    if passed_on:
        con.execute(";".join(f'COMMENT ON COLUMN "{v}"."{name}" IS {quoted(notes[name])}' for v, name in passed_on))


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    con.register("incoming", rows)
    try:
        con.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM incoming')
    finally:
        con.unregister("incoming")


def table_version() -> str:
    """A hash of every table's definition: a file of ours with another one is made anew instead of being patched."""
    return hashlib.sha256(";".join(table.ddl() for table in ALL_TABLES).encode()).hexdigest()[:16]


def view_version() -> str:
    """A hash of every view's definition and of what is said about it: answers of a file with other views are not
    ours."""
    over_rows = "".join(_all_rows(table, ()) for table in SEGMENT_TABLES.values() if table.bulk)
    said = "".join(f"{table.comment}{[c.note for c in table.columns]}" for table in ALL_TABLES)
    whole = _T975_MACRO + over_rows + "".join(_views().values()) + _comments() + said
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def read_segments(root: Path, table: Table, segments: Sequence[Segment]) -> str:
    """SELECT over segment files of one table, for INSERT BY NAME: columns that a file of another version lacks become
    NULL, also when all files lack them; columns that this version does not know are left out."""
    paths = ", ".join(quoted(str(root / s.path)) for s in segments)
    known = ", ".join(quoted(name) for name in table.names)
    return (
        f"SELECT COLUMNS(lambda c: c IN ({known}))"
        f" FROM read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
    )


def load_segments(con: duckdb.DuckDBPyConnection, root: Path, segments: Sequence[Segment], *, batch: int = 500) -> None:
    """Insert the rows of segments. Raises StoreDamaged naming the file that cannot be read."""
    by_table: dict[str, list[Segment]] = {}
    for segment in segments:
        by_table.setdefault(segment.table, []).append(segment)
    with _threads_for(con, root, segments):
        for name, group in by_table.items():
            table = SEGMENT_TABLES[name]
            for start in range(0, len(group), batch):
                part = group[start : start + batch]
                try:
                    con.execute(f'INSERT INTO "{table.stored}" BY NAME {read_segments(root, table, part)}')
                except duckdb.Error as error:
                    raise damaged({s: first_line(error) for s in part if _unreadable(root, s)}, root) from error


@contextmanager
def _threads_for(con: duckdb.DuckDBPyConnection, root: Path, segments: Sequence[Segment]) -> Iterator[None]:
    """One thread for small files: two spend half as much again, waiting for each other."""
    sizes = [(root / s.path).stat().st_size for s in segments[:50]]
    if not sizes or sum(sizes) > len(sizes) * SMALL_BYTES:
        yield
        return
    before = con.execute("SELECT current_setting('threads')").fetchone()
    con.execute("SET threads = 1")
    try:
        yield
    finally:
        con.execute(f"SET threads = {before[0] if before else 1}")


def look_at(root: Path, segments: Sequence[Segment]) -> tuple[dict[Segment, Seen], dict[Segment, str]]:
    """Verify each file: (what the sound ones say, why the others must not be read)."""
    sound: dict[Segment, Seen] = {}
    unsound: dict[Segment, str] = {}
    for segment in segments:
        try:
            seen = stamp.look(root / segment.path)
        except (stamp.Damaged, OSError) as error:
            unsound[segment] = first_line(error)
            continue
        if seen.schema_version > SCHEMA_VERSION:
            raise newer(str(root / segment.path), seen.schema_version)
        sound[segment] = seen
    return sound, unsound


def newer(what: str, found: int) -> EnvironmentProblem:
    """The error for something a later mtlfleet wrote."""
    return EnvironmentProblem(
        f"{what} was written in schema version {found}",
        notes=[f"mtlfleet {stamp.version_here()} reads versions up to {SCHEMA_VERSION}"],
        help="use the newer mtlfleet that wrote it: pip install -U mtlfleet",
    )


def _unreadable(root: Path, segment: Segment) -> bool:
    try:
        duckdb.execute(f"SELECT count(COLUMNS(*)) FROM read_parquet({quoted(str(root / segment.path))})").fetchall()
    except duckdb.Error:
        return True
    return False


def damaged(segments: Mapping[Segment, str], root: Path) -> StoreDamaged:
    """The error that names damaged files and says what is wrong with the first."""
    reason = next(iter(segments.values()), "unknown")
    return StoreDamaged(
        f"{len(segments)} segment{'s' if len(segments) != 1 else ''} cannot be read: {reason}",
        notes=[*(str(root / s.path) for s in list(segments)[:8]), "nothing was overwritten"],
        help="restore the files from a backup, or `mtlfleet doctor STUDY --repair`: it sets them aside and lets their"
        " trials run again",
    )


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
