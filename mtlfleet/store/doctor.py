"""Examine a store against itself, and put aside what is damaged.

What is checked, file by file: segments are the bytes that were written, hold what their name says and nothing from
before the step their attempt restored; parts follow each other without a gap; every segment's attempt was claimed;
claims and ends are JSON; no row stands there twice; documents can be read; and the published file's ledger says what
the segments' footers say. ``repair`` moves every file of a trial with a damaged segment or claim to ``quarantine/``, so
that the next launch runs that trial again from its seed, and makes the published file anew. Nothing is deleted.
The numbers of the attempts that were put aside are never given again: one of them may still run
somewhere, and what it writes then has no claim, hence counts for nothing.
Registrations under ``claims/`` are evidence: they are reported and left alone.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtlfleet.errors import FleetError, StoreDamaged
from mtlfleet.store import layout, stamp, workfile
from mtlfleet.store.attempts import parsed
from mtlfleet.store.database import first_line, quoted
from mtlfleet.store.folder import Folder
from mtlfleet.store.layout import Segment
from mtlfleet.store.schema import SEGMENT_TABLES

QUARANTINE = "quarantine"
_IDENTITY = {
    "metrics": ("step", "split", "task", "metric", "final"),  # the chosen checkpoint's row stands beside its evaluation
    "step_metrics": ("step", "task", "metric"),
    "task_gradients": ("step", "scope"),
}
_ATTEMPT = re.compile(r"attempt=(\d+)")
_UNREADABLE = (OSError, pa.ArrowException, FleetError, stamp.Damaged)


class Problem(NamedTuple):
    """One thing that is wrong. ``trial`` is (study, trial) where running it again mends it."""

    kind: str
    path: str
    message: str
    trial: tuple[str, str] | None = None


@dataclass(frozen=True)
class Examined:
    """What was looked at and what is wrong."""

    segments: int
    rows: int
    claims: int
    documents: int
    problems: tuple[Problem, ...]


def examine(root: Path) -> Examined:
    """Read every file of the store once. Changes nothing; works beside a running launch."""
    listed = layout.list_segments(root)
    claims = layout.list_claims(root)
    retired = layout.list_retired(root)
    known = {(c.study, c.trial, c.attempt) for c in claims}
    segments = [  # without those of attempts that were put aside and did not know: nobody will read them
        s for s in listed if (s.study, s.trial, s.attempt) in known or s.attempt > retired.get((s.study, s.trial), 0)
    ]
    documents = layout.newest_documents(root)
    footers: dict[str, int] = {}
    problems = [
        *_segments(root, segments, footers),
        *_parts(segments),
        *_claims(root, segments, claims, retired),
        *_documents(root, documents.values()),
        *_registrations(root),
    ]
    problems += _published(root, footers)
    return Examined(len(segments), sum(footers.values()), len(claims), len(documents), tuple(sorted(set(problems))))


def repair(root: Path, found: Examined) -> tuple[list[Path], list[Problem]]:
    """Move the trials and documents behind ``found`` to quarantine, publish anew. Returns what was moved and what is
    still wrong.

    No launch may be running. Raises EnvironmentProblem when another process folds results in.
    """
    place = root / QUARANTINE / time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    doomed: list[Path] = []
    trials = sorted({p.trial for p in found.problems if p.trial})
    last = {trial: _last_seen(root, *trial) for trial in trials}
    for study, trial in trials:
        doomed += [root / layout.trial_key(study, trial), root / layout.checkpoints_key(study, trial)]
    doomed += [root / p.path for p in found.problems if p.kind == "document"]
    moved = [_move(root, path, place) for path in dict.fromkeys(doomed) if path.exists()]
    for (study, trial), attempt in last.items():
        word = json.dumps({"retired": attempt, "quarantine": place.relative_to(root).as_posix()})
        Folder(root).put_new(layout.retired_key(study, trial, attempt), word.encode())
    if found.problems and not any(p.kind == "registration" for p in found.problems):
        _publish(root)  # never over a registration that cannot be read: verdicts rest on it
    return moved, list(examine(root).problems)


def _last_seen(root: Path, study: str, trial: str) -> int:
    """The largest attempt of which there is any trace: a claim, an end, rows, a checkpoint, the published ledger."""
    place = Folder(root)
    names = place.names(layout.trial_key(study, trial))
    seen = {layout.retired_among(names), *(int(n) for n in _ATTEMPT.findall(" ".join(names)))}
    seen |= {int(n) for n in _ATTEMPT.findall(" ".join(place.names(layout.checkpoints_key(study, trial))))}
    try:
        with duckdb.connect(str(root / layout.SNAPSHOT), read_only=True) as con:
            for table in ("segments", "attempts"):
                query = f"SELECT max(attempt) FROM {table} WHERE (study_id, trial_id) = (?, ?)"
                seen |= {int(n) for (n,) in con.execute(query, [study, trial]).fetchall() if n is not None}
    except duckdb.Error:  # not there, or damaged: a problem of its own
        pass
    return max(seen)


def _move(root: Path, path: Path, place: Path) -> Path:
    """Keeps its place below the root, so that it can be moved back by hand."""
    target = place / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    return target


def _publish(root: Path) -> None:
    from mtlfleet.store.ingest import Ingester

    workfile.discard(workfile.path_in(root))
    with Ingester(root) as ingester:
        ingester.rebuild()


def _of(segment: Segment, kind: str, message: str) -> Problem:
    return Problem(kind, segment.path, message, (segment.study, segment.trial))


def _segments(root: Path, segments: Sequence[Segment], footers: dict[str, int]) -> Iterator[Problem]:
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
            if stranger := _stranger(segment, table) or _early(table, restored):
                yield _of(segment, "segment", stranger)
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


def _stranger(segment: Segment, table: pa.Table) -> str | None:
    """Whether a file holds rows of another trial than its name says."""
    for column, name in (("study_id", segment.study), ("trial_id", segment.trial), ("attempt", segment.attempt)):
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


def _parts(segments: Iterable[Segment]) -> Iterator[Problem]:
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


def _claims(
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


def _documents(root: Path, documents: Iterable[Path]) -> Iterator[Problem]:
    for path in documents:
        try:
            pq.ParquetFile(path, page_checksum_verification=True).read()
        except _UNREADABLE as error:
            yield Problem("document", path.relative_to(root).as_posix(), f"cannot be read: {first_line(error)}")


def _registrations(root: Path) -> Iterator[Problem]:
    for path in sorted((root / "claims").glob("study=*/*@*.json")):
        key = path.relative_to(root).as_posix()
        try:
            lacking = sorted({"claim_id", "number", "payload"} - set(parsed(Folder(root), key)))
        except (OSError, FleetError) as error:
            lacking = [first_line(error)]
        if lacking:
            message = f"a registration that cannot be read: {', '.join(lacking)}"
            yield Problem("registration", key, message)


def _published(root: Path, footers: dict[str, int]) -> list[Problem]:
    """The published file: it opens, its ledger agrees with the footers, its tables with its ledger."""
    path = root / layout.SNAPSHOT
    if not path.exists():
        return []
    try:
        with duckdb.connect(":memory:", config={"threads": 2}) as con:
            con.execute(f"ATTACH {quoted(str(path))} AS s (READ_ONLY)")
            ledger = con.execute("SELECT segment, rows, table_name, study_id, trial_id FROM s.segments").fetchall()
            counted = {
                name: con.execute(f"SELECT count(*) FROM s.{table.base}").fetchone()
                for name, table in SEGMENT_TABLES.items()
            }
    except duckdb.Error as error:
        return [Problem("published file", layout.SNAPSHOT, f"cannot be used: {first_line(error)}")]
    problems = []
    expected: Counter[str] = Counter()
    for name, rows, table, study, trial in ledger:
        expected[table] += rows
        if name in footers and footers[name] != rows:
            problems.append(Problem("published rows", name, f"the ledger says {rows} rows, the file {footers[name]}"))
        elif name not in footers and not (root / name).exists():
            problems.append(Problem("lost segment", name, f"{rows} rows were published from it", (study, trial)))
    for table, found in counted.items():
        if found != (expected[table],):
            message = f"{table} has {found and found[0]} rows, its ledger says {expected[table]}"
            problems.append(Problem("published rows", layout.SNAPSHOT, message))
    return problems
