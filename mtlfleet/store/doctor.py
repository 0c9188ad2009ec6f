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

from mtlfleet.plan.place import PUBLISH_MAX_BYTES, Root
from mtlfleet.store import checks, layout, workfile
from mtlfleet.store.checks import Problem
from mtlfleet.store.mirror import mirror, published, whole
from mtlfleet.store.place import Place, at

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


def repair(root: Root, found: Examined, max_bytes: int | None = PUBLISH_MAX_BYTES) -> tuple[list[str], list[Problem]]:
    """Move the trials and documents behind ``found`` to quarantine, publish anew. Returns the keys of what was moved
    and what is still wrong.

    No launch may be running. Raises EnvironmentProblem when another process folds results in.
    """
    place, folder = at(root), f"{QUARANTINE}/{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    moved: list[str] = []
    for study, trial in sorted({p.trial for p in found.problems if p.trial}):
        moved += _set_aside(place, study, trial, folder)
    documents = sorted({p.path for p in found.problems if p.kind == "document"})
    place.move(documents, folder)
    moved += documents
    if found.problems and not any(p.kind == "registration" for p in found.problems):
        _publish(root, max_bytes)  # never over a registration that cannot be read: verdicts rest on it
    with whole(root) as files:
        return [f"{folder}/{key}" for key in moved], list(examine(files).problems)


def _set_aside(place: Place, study: str, trial: str, folder: str) -> list[str]:
    """Move all files of a trial. Returns the keys of the folders that they were in.

    A process that is killed in between leaves a trial that is found damaged again, or one without claims, which is a
    trial that has not run: first the numbers of its attempts are retired, then its checkpoints go, which count only
    with a claim, then the claims, and last what nobody reads without one.
    """
    attempt = _last_seen(place, study, trial)
    key, checkpoints, artifacts = (
        of(study, trial) for of in (layout.trial_key, layout.checkpoints_key, layout.artifacts_key)
    )
    word = json.dumps({"retired": attempt, "quarantine": folder})
    found = [k for k in place.walk(key) if not layout.retired_among([k.rpartition("/")[2]])]
    place.put_new(layout.retired_key(study, trial, attempt), word.encode())
    saved, left = place.folders(checkpoints), list(place.walk(artifacts))
    for name in saved:
        place.move_folder(f"{checkpoints}/{name}", folder)
    for claims in (True, False):
        place.move([k for k in found if k.endswith(".json") is claims], folder)
    place.move(left, folder)
    return [name for name, was_there in ((key, found), (checkpoints, saved), (artifacts, left)) if was_there]


def _last_seen(place: Place, study: str, trial: str) -> int:
    """The largest attempt of which there is any trace: a claim, an end, rows, a checkpoint, the published ledger."""
    names = place.names(layout.trial_key(study, trial))
    seen = {layout.retired_among(names), *(int(n) for n in _ATTEMPT.findall(" ".join(names)))}
    seen |= {int(n) for n in _ATTEMPT.findall(" ".join(place.names(layout.checkpoints_key(study, trial))))}
    try:
        with duckdb.connect(str(published(place.root)), read_only=True) as con:
            for table in ("segments", "attempts"):
                query = f"SELECT max(attempt) FROM {table} WHERE (study_id, trial_id) = (?, ?)"
                seen |= {int(n) for (n,) in con.execute(query, [study, trial]).fetchall() if n is not None}
    except duckdb.Error:  # not there, or damaged: a problem of its own
        pass
    return max(seen)


def _publish(root: Root, max_bytes: int | None) -> None:
    from mtlfleet.store.ingest import Ingester

    workfile.discard(workfile.path_in(mirror(root).folder))
    with Ingester(root, max_bytes=max_bytes) as ingester:
        ingester.rebuild()
