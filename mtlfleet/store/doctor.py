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
from dataclasses import dataclass
from pathlib import Path

import duckdb

from mtlfleet.store import checks, layout, workfile
from mtlfleet.store.checks import Problem
from mtlfleet.store.folder import Folder

QUARANTINE = "quarantine"
_ATTEMPT = re.compile(r"attempt=(\d+)")


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
        *checks.segments(root, segments, footers),
        *checks.parts(segments),
        *checks.claims(root, segments, claims, retired),
        *checks.documents(root, documents.values()),
        *checks.registrations(root),
    ]
    problems += checks.published(root, footers)
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
        folders = (layout.trial_key, layout.checkpoints_key, layout.artifacts_key)
        doomed += [root / key(study, trial) for key in folders]
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
