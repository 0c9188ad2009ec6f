"""What `mtlfleet doctor` looks for in each kind of file of a store. Everything here only reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtlfleet.errors import FleetError, StoreDamaged
from mtlfleet.store import layout, stamp
from mtlfleet.store.attempts import parsed
from mtlfleet.store.database import first_line, quoted, table_version
from mtlfleet.store.folder import Folder
from mtlfleet.store.layout import Segment
from mtlfleet.store.schema import SEGMENT_TABLES

_IDENTITY = {
    "metrics": ("step", "split", "task", "metric", "final"),  # the chosen checkpoint's row stands beside its evaluation
    "step_metrics": ("step", "task", "metric"),
    "task_gradients": ("step", "scope"),
}
_UNREADABLE = (OSError, pa.ArrowException, FleetError, stamp.Damaged)


class Problem(NamedTuple):
    """One thing that is wrong. ``trial`` is (study, trial) where running it again mends it."""

    kind: str
    path: str
    message: str
    trial: tuple[str, str] | None = None


def _of(segment: Segment, kind: str, message: str) -> Problem:
    return Problem(kind, segment.path, message, (segment.study, segment.trial))


def segments(root: Path, segments: Sequence[Segment], footers: dict[str, int]) -> Iterator[Problem]:
    """Reads each file whole; what its footer counts goes into ``footers``. Rows are compared within an attempt."""
    by_attempt: dict[tuple[str, str, int, str], list[Segment]] = defaultdict(list)
    for segment in segments:
        if segment.table in SEGMENT_TABLES:
            by_attempt[segment.study, segment.trial, segment.attempt, segment.table].append(segment)
        else:
            yield _of(segment, "unknown table", f"no table is called `{segment.table}`")
    for (study, trial, attempt, _), group in by_attempt.items():
        tables, restored = [], _restored(root, layout.attempt_key(study, trial, attempt))
        for segment in group:
            try:
                table = _whole(root, segment, footers)
            except _UNREADABLE as error:
                yield _of(segment, "segment", f"cannot be read: {first_line(error)}")
                continue
            wrong = _stranger(table, study_id=study, trial_id=trial, attempt=attempt) or _early(table, restored)
            if wrong:
                yield _of(segment, "segment", wrong)
            tables.append((segment, table))
        yield from _twice(tables)


def _whole(root: Path, segment: Segment, footers: dict[str, int]) -> pa.Table:
    path = root / segment.path
    stamp.look(path)
    file = pq.ParquetFile(path, page_checksum_verification=True)
    table = file.read()
    footers[segment.path] = file.metadata.num_rows
    lacking = {"study_id", "trial_id", "attempt", "step"} - set(table.column_names)
    if lacking:
        raise StoreDamaged(f"column {', '.join(sorted(lacking))} is missing")
    return table


def _stranger(table: pa.Table, **named: str | int) -> str | None:
    """Whether a file holds rows of another trial than its name says."""
    for column, name in named.items():
        values = pc.unique(table[column]).to_pylist()
        if values not in ([name], []):
            return f"its name says {column} {name}, its rows say {', '.join(map(str, values[:3]))}"
    return None


def _restored(root: Path, attempt: str) -> int | None:
    """The step that an attempt restored; None where its claim does not say, which is a problem of its own."""
    try:
        found = parsed(Folder(root), f"{attempt}.json").get("restored_step")
    except (OSError, FleetError):
        return None
    return found if isinstance(found, int) else None


def _early(table: pa.Table, restored: int | None) -> str | None:
    """Whether there are rows of steps that an earlier attempt owns: the views count on there being none."""
    first = pc.min(table["step"]).as_py()
    if restored is None or first is None or first > restored:
        return None
    return f"it has rows of step {first}, but its attempt restored step {restored}"


def _twice(tables: Sequence[tuple[Segment, pa.Table]]) -> Iterator[Problem]:
    """Rows of one attempt with the same identity: a writer never repeats one."""
    if not tables or (key := _IDENTITY.get(tables[0][0].table)) is None:
        return
    usable = [(s, t.select(key)) for s, t in tables if set(key) <= set(t.column_names)]
    if not usable:
        return
    seen = pa.concat_tables([t for _, t in usable], promote_options="permissive")
    counts = seen.group_by(list(key)).aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))
    if repeated.num_rows:
        first = repeated.slice(0, 1).to_pylist()[0]
        what = ", ".join(f"{name} {first[name]}" for name in key)
        yield _of(usable[-1][0], "duplicate", f"{repeated.num_rows} rows of this attempt stand there twice: {what}")


def parts(segments: Iterable[Segment]) -> Iterator[Problem]:
    numbers: dict[tuple[str, str, int, str], list[int]] = defaultdict(list)
    for s in segments:
        numbers[s.study, s.trial, s.attempt, s.table].append(s.part)
    for (study, trial, attempt, table), parts in numbers.items():
        missing = sorted(set(range(1, max(parts) + 1)) - set(parts))
        if missing:
            yield _of(
                Segment(study, trial, attempt, table, missing[0]),
                "gap",
                f"part{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing[:5]))} of {max(parts)} missing",
            )


def claims(
    root: Path,
    segments: Iterable[Segment],
    claims: Sequence[layout.Claimed],
    retired: Mapping[tuple[str, str], int],
) -> Iterator[Problem]:
    claimed = {(c.study, c.trial, c.attempt) for c in claims}
    for study, trial, attempt in sorted({(s.study, s.trial, s.attempt) for s in segments} - claimed):
        lone = layout.attempt_key(study, trial, attempt)
        yield Problem("no claim", lone, "rows of an attempt that nobody claimed", (study, trial))
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for claim in claims:
        where = (claim.study, claim.trial)
        numbers[where].append(claim.attempt)
        key = layout.attempt_key(*where, claim.attempt)
        for path in (f"{key}.json", f"{key}.end.json")[: 1 + claim.ended]:
            try:
                found = parsed(Folder(root), path)
            except (OSError, FleetError) as error:
                yield Problem("claim", path, first_line(error), where)
                continue
            if not path.endswith(".end.json") and not isinstance(found.get("restored_step"), int):
                yield Problem("claim", path, "says no restored_step", where)
    for where, attempts in numbers.items():
        first = min(attempts)
        if first not in (1, retired.get(where, 0) + 1) or max(attempts) - first + 1 != len(attempts):
            yield Problem("gap", layout.trial_key(*where), f"attempts {attempts}: numbers follow each other", where)


def documents(root: Path, documents: Iterable[Path]) -> Iterator[Problem]:
    for path in documents:
        try:
            pq.ParquetFile(path, page_checksum_verification=True).read()
        except _UNREADABLE as error:
            yield Problem("document", path.relative_to(root).as_posix(), f"cannot be read: {first_line(error)}")


def registrations(root: Path) -> Iterator[Problem]:
    for path in sorted((root / "claims").glob("study=*/*@*.json")):
        key = path.relative_to(root).as_posix()
        try:
            lacking = sorted({"claim_id", "number", "payload"} - set(parsed(Folder(root), key)))
        except (OSError, FleetError) as error:
            lacking = [first_line(error)]
        if lacking:
            message = f"a registration that cannot be read: {', '.join(lacking)}"
            yield Problem("registration", key, message)


class _Told(NamedTuple):
    """What the published file says it holds. Of one with other tables, which no reader uses, only the ledger."""

    ledger: list[tuple[str, int, str, str, str]]
    sealed: list[tuple[str, int, str, str, str]]
    counted: dict[str, int]


def _told(path: Path) -> _Told:
    """Raises duckdb.Error."""
    with duckdb.connect(":memory:", config={"threads": 2}) as con:
        con.execute(f"ATTACH {quoted(str(path))} AS s (READ_ONLY)")
        ledger = con.execute("SELECT segment, rows, table_name, study_id, trial_id FROM s.segments").fetchall()
        version = con.execute("SELECT value FROM s.meta WHERE key = 'table_version'").fetchone()
        if version != (table_version(),):
            return _Told(ledger, [], {})
        sealed = con.execute("SELECT path, rows, table_name, study_id, trial_id FROM s.sealed").fetchall()
        counts = ", ".join(f"(SELECT count(*) FROM s.{table.stored})" for table in SEGMENT_TABLES.values())
        found = con.execute(f"SELECT {counts}").fetchone() or ()
        return _Told(ledger, sealed, dict(zip(SEGMENT_TABLES, found, strict=True)))


def published(root: Path, footers: Mapping[str, int]) -> Iterator[Problem]:
    """The published file: it opens, its ledger agrees with the footers, its tables and sealed files with its ledger."""
    path = root / layout.SNAPSHOT
    if not path.exists():
        return
    try:
        told = _told(path)
    except duckdb.Error as error:
        yield Problem("published file", layout.SNAPSHOT, f"cannot be used: {first_line(error)}")
        return
    expected: Counter[str] = Counter()
    for name, rows, table, study, trial in told.ledger:
        expected[table] += rows
        if name in footers and footers[name] != rows:
            yield Problem("published rows", name, f"the ledger says {rows} rows, the file {footers[name]}")
        elif name not in footers and not (root / name).exists():
            yield Problem("lost segment", name, f"{rows} rows were published from it", (study, trial))
    for name, rows, table, study, trial in told.sealed:
        expected[table] -= rows
        if wrong := _sealed(root / name, rows, study, trial):
            yield Problem("sealed", name, wrong)
    for table, found in told.counted.items():
        if found != expected[table]:
            message = f"{table} has {found} rows in the file, its ledger says {expected[table]}"
            yield Problem("published rows", layout.SNAPSHOT, message)


def _sealed(path: Path, rows: int, study: str, trial: str) -> str | None:
    """What is wrong with a sealed file. It is made anew from the segments, so its trial need not run again."""
    try:
        stamp.look(path)
        found = pq.read_table(path, columns=["study_id", "trial_id"], partitioning=None)
    except _UNREADABLE as error:
        return f"cannot be read: {first_line(error)}"
    if found.num_rows != rows:
        return f"the published file says {rows} rows, it has {found.num_rows}"
    return _stranger(found, study_id=study, trial_id=trial)
