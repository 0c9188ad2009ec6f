"""Find a trial by the first characters of its id, in a given store or in the stores near the current folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mtlfleet.errors import UsageError
from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.documents import read_document
from mtlfleet.store.place import at


class Found(NamedTuple):
    """A trial and where it lies."""

    root: Root
    study: str
    trial: str


def nearby(start: Path) -> list[Path]:
    """Stores in ``start``, below its ``runs`` folders, and around it when it lies inside a store."""
    places = [p for p in (start, *start.parents) if layout.is_store(at(p))]
    for pattern in ("runs/*", "*/runs/*", "*/*/runs/*", "*"):
        places += [p for p in sorted(start.glob(pattern)) if p.is_dir() and layout.is_store(at(p))]
    return list(dict.fromkeys(p.resolve() for p in places))


def trials_of(root: Root) -> list[Found]:
    """Every trial that a document of this store names or that has been started."""
    place = at(root)
    found: set[Found] = set()
    for study in layout.studies_in(place):
        planned = [str(row["trial_id"]) for row in read_document(root, study, "trials")]
        started = layout.values_in(place, layout.study_key("segments", study), "trial")
        found.update(Found(root, study, trial) for trial in (*planned, *started))
    return sorted(found, key=lambda f: (str(f.root), f.study, f.trial))


def find_trial(prefix: str, roots: Sequence[Root]) -> Found:
    """The one trial whose id starts with ``prefix``. Raises UsageError when there is none or more than one."""
    if not roots:
        raise UsageError(
            "no results store near here", help="name it: --study study.yaml, or run this beside the study file"
        )
    known = [found for root in roots for found in trials_of(root)]
    matching = [found for found in known if found.trial.startswith(prefix.lower())]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise UsageError(
            f"no trial's id starts with `{prefix}`",
            notes=[f"looked at {len(known)} trials in {', '.join(str(r) for r in roots)}"],
            help="list them: mtlfleet sql STUDY 'SELECT trial_id, label, state FROM trial_summary'",
        )
    names = ", ".join(f"{found.trial} ({found.study})" for found in matching[:8])
    raise UsageError(f"{len(matching)} trials start with `{prefix}`", notes=[names], help="give more characters")
