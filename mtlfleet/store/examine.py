"""Is a store what was written, and can it be mended? What ``mtlfleet doctor STUDY [--repair]`` stands on.

``check`` reads every byte of the truth and compares the derived file with it. ``repair`` never deletes and never edits
a row: what is damaged is moved to ``quarantine/``, its trial gets an attempt that restored step 0 and was lost, so that
nothing of the earlier ones counts and ``launch`` runs it again, and the derived file is made anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb

from mtlfleet.errors import FleetError, StoreDamaged
from mtlfleet.store import durable, layout
from mtlfleet.store.attempts import claim_attempt, end_attempt, read_claim, read_json, upper_bound
from mtlfleet.store.database import document_rows, first_line, look_at, table_version
from mtlfleet.store.ingest import Ingester
from mtlfleet.store.layout import Segment
from mtlfleet.store.schema import SCHEMA_VERSION, SEGMENT_TABLES
from mtlfleet.store.stamp import Seen
from mtlfleet.store.store import Store

QUARANTINE = "quarantine"
_MOVED = ("damaged segment", "unclaimed segment", "damaged ending", "damaged document")
_WINDOWED = ("metrics", "step_metrics", "task_gradients")
_KEYS = {
    "metrics": "study_id, trial_id, step, split, task, metric, final",
    "step_metrics": "study_id, trial_id, step, task, metric",
    "task_gradients": "study_id, trial_id, step, scope",
}


class Finding(NamedTuple):
    """Something wrong. ``path`` is below the root; ``trial`` (study, trial) is what must run again to mend it."""

    kind: str
    path: str
    detail: str
    trial: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


class Mended(NamedTuple):
    """What ``repair`` did about it."""

    action: str
    path: str


def check(root: Path | str) -> list[Finding]:
    """Everything that is wrong with the store, truth first. Raises EnvironmentProblem for files of a newer mtlfleet."""
    root = Path(root)
    segments = [s for s in layout.list_segments(root) if s.table in SEGMENT_TABLES]
    restored, found = _claims(root)
    sound, unsound = look_at(root, segments)
    for segment, reason in unsound.items():
        needed = _counts(segment, restored)
        found.append(Finding("damaged segment", segment.path, reason, needed))
    found += _unclaimed(segments, restored)
    found += _gaps(segments, restored)
    found += _windows(sound, restored)
    found += _documents(root)
    found += _snapshot(root, sound)
    if not found:
        found += _duplicates(root)
    return found


def _claims(root: Path) -> tuple[dict[tuple[str, str], dict[int, int]], list[Finding]]:
    """((study, trial) -> attempt -> restored step, what cannot be read)."""
    restored: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    found = []
    for claim in layout.list_claims(root):
        folder = layout.trial_folder(root, claim.study, claim.trial)
        name = folder / f"attempt={claim.attempt}.json"
        try:
            restored[claim.study, claim.trial][claim.attempt] = int(read_json(name)["restored_step"])
        except (StoreDamaged, KeyError, ValueError) as error:
            found.append(Finding("damaged claim", _below(root, name), first_line(error)))
            continue
        try:
            read_claim(root, claim.study, claim.trial, claim.attempt)
        except StoreDamaged as error:
            path = _below(root, folder / f"attempt={claim.attempt}.end.json")
            found.append(Finding("damaged ending", path, first_line(error), (claim.study, claim.trial)))
    return dict(restored), found


def _counts(segment: Segment, restored: dict[tuple[str, str], dict[int, int]]) -> tuple[str, str] | None:
    """The trial that a segment's loss concerns; None when a later attempt superseded all of it anyway."""
    attempts = restored.get((segment.study, segment.trial), {})
    upto = upper_bound(attempts, segment.attempt)
    return None if upto is not None and upto <= attempts.get(segment.attempt, 0) else (segment.study, segment.trial)


def _unclaimed(segments: Iterable[Segment], restored: dict[tuple[str, str], dict[int, int]]) -> Iterator[Finding]:
    for s in segments:
        if s.attempt not in restored.get((s.study, s.trial), {}):
            yield Finding("unclaimed segment", s.path, f"no attempt={s.attempt}.json says who wrote it; it is not read")


def _gaps(segments: Iterable[Segment], restored: dict[tuple[str, str], dict[int, int]]) -> Iterator[Finding]:
    """A writer numbers the parts of a table 1, 2, 3 and writes them in that order."""
    parts: dict[Segment, set[int]] = defaultdict(set)
    for s in segments:
        parts[s._replace(part=0)].add(s.part)
    for first, numbers in parts.items():
        missing = sorted(set(range(1, max(numbers))) - numbers)
        if missing and _counts(first, restored):
            path = first._replace(part=missing[0]).path
            yield Finding("missing segment", path, f"part {max(numbers)} is there", (first.study, first.trial))


def _windows(sound: dict[Segment, Seen], restored: dict[tuple[str, str], dict[int, int]]) -> Iterator[Finding]:
    for s, seen in sound.items():
        start = restored.get((s.study, s.trial), {}).get(s.attempt)
        low = seen.min_step
        if s.table in _WINDOWED and start is not None and low is not None and low <= start and _counts(s, restored):
            detail = f"holds step {low}, but its attempt restored step {start}"
            yield Finding("row before its window", s.path, detail, (s.study, s.trial))


def _documents(root: Path) -> Iterator[Finding]:
    for path in layout.newest_documents(root).values():
        try:
            duckdb.execute(f"SELECT count(COLUMNS(*)) FROM {document_rows(path)}").fetchall()
        except duckdb.Error as error:
            yield Finding("damaged document", _below(root, path), first_line(error))


def _snapshot(root: Path, sound: dict[Segment, Seen]) -> Iterator[Finding]:
    """The published file against the truth; one of another mtlfleet is no fault, it is not read."""
    path = root / layout.SNAPSHOT
    if not path.exists():
        return
    try:
        with duckdb.connect(str(path), read_only=True) as con:
            facts = dict(con.execute("SELECT key, value FROM meta").fetchall())
            if (facts.get("schema_version"), facts.get("table_version")) != (str(SCHEMA_VERSION), table_version()):
                return
            ledger = con.execute("SELECT segment, table_name, rows, sha256 FROM segments").fetchall()
            tables = {
                t.name: con.execute(f'SELECT count(*) FROM "{t.base}"').fetchall()[0][0]
                for t in SEGMENT_TABLES.values()
            }
    except duckdb.Error as error:
        yield Finding("damaged snapshot", layout.SNAPSHOT, first_line(error))
        return
    by_path = {s.path: seen for s, seen in sound.items()}
    told: dict[str, int] = dict.fromkeys(tables, 0)
    for segment, table, rows, sha256 in ledger:
        told[table] = told.get(table, 0) + rows
        seen = by_path.get(segment)
        if seen is None:
            if not (root / segment).exists():
                yield Finding("snapshot is ahead", segment, "its rows are in the snapshot, its file is gone")
        elif (seen.rows, seen.sha256) != (rows, sha256):
            yield Finding("snapshot differs", segment, "the ledger describes another file of this name")
    for table, rows in tables.items():
        if rows != told[table]:
            detail = f"{rows} rows, the ledger says {told[table]}"
            yield Finding("snapshot differs", SEGMENT_TABLES[table].base, detail)


def _duplicates(root: Path) -> Iterator[Finding]:
    with Store(root).session() as session:
        for table, keys in _KEYS.items():
            query = f"SELECT study_id, trial_id, count(*) AS n FROM (SELECT {keys} FROM {table} GROUP BY {keys}"
            query += " HAVING count(*) > 1) GROUP BY ALL ORDER BY ALL"
            for row in session.sql(query).to_pylist():
                trial = (row["study_id"], row["trial_id"])
                where = f"segments/study={trial[0]}/trial={trial[1]}"
                yield Finding("row twice", where, f"{row['n']} rows of {table} are there more than once", trial)


def repair(root: Path | str, findings: Iterable[Finding] | None = None) -> list[Mended]:
    """Mend what can be mended. Raises EnvironmentProblem while a launch of this host is folding results in.

    A damaged claim stays as it is: it alone says which step its attempt restored.
    """
    root = Path(root)
    found = list(check(root) if findings is None else findings)
    done = []
    if any(f.kind == "damaged snapshot" for f in found):
        done.append(_set_aside(root, layout.SNAPSHOT))
    with Ingester(root) as ingester:
        done += [_set_aside(root, f.path) for f in found if f.kind in _MOVED]
        reasons: dict[tuple[str, str], str] = {}
        for finding in found:
            if finding.trial is not None:
                reasons.setdefault(finding.trial, str(finding))
        for (study, trial), reason in reasons.items():
            done.append(_requeue(root, study, trial, reason))
        if found:
            ingester.rebuild()
            done.append(Mended("made anew from the segments", layout.SNAPSHOT))
    return done


def _set_aside(root: Path, path: str) -> Mended:
    """Move a file to quarantine, under its own path; an earlier one of that name stays."""
    target = root / QUARANTINE / path
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{Path(path).name}.{number}")
    durable.make_folder(target.parent)
    (root / path).rename(target)
    durable.sync_folder((root / path).parent)
    durable.sync_folder(target.parent)
    return Mended("set aside", _below(root, target))


def _requeue(root: Path, study: str, trial: str, reason: str) -> Mended:
    """Supersede every attempt so far by one that restored nothing and was lost."""
    facts = {
        "restored_step": 0,
        "restored_checkpoint": None,
        "world_size": 0,
        "started_at": datetime.now(UTC).isoformat(),
        "schema_version": SCHEMA_VERSION,
    }
    try:
        attempt = claim_attempt(root, study, trial, facts)
    except FleetError as error:
        raise StoreDamaged(f"trial {trial} cannot be made to run again: {error.message}", help=error.help) from error
    end_attempt(root, study, trial, attempt, state="lost", reason=f"store repaired; {reason}")
    return Mended("runs again at the next launch", f"segments/study={study}/trial={trial}")


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
