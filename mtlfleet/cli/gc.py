"""``mtlfleet gc``: free the disk of what no launch can use any more. Rows, claims and documents are never touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from mtlfleet.store.place import Place

DAY_S = 86_400.0


class Waste(NamedTuple):
    """Something that may go, and why."""

    key: str
    reason: str
    size_bytes: int


@click.command("gc")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--checkpoints", is_flag=True, help="Also every checkpoint of finished trials; artifacts stay.")
@click.option("--dry-run", is_flag=True, help="Say what would go; delete nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(study: Path, checkpoints: bool, dry_run: bool, as_json: bool) -> None:
    """Delete half-written files and sealed files that nothing names, both older than a day, superseded checkpoints
    and artifacts of STUDY."""
    from mtlfleet.store.artifacts import superseded_artifacts
    from mtlfleet.store.place import at
    from mtlfleet.store.store import open_store

    store = open_store(study)
    place = at(store.root)
    name = store.one_study()
    found = [
        *_half_written(place),
        *_unnamed(place),
        *(Waste(key, "artifact", place.size(key)) for key in superseded_artifacts(place, name)),
        *_checkpoints(place, name, finished=checkpoints),
    ]
    freed = sum(waste.size_bytes for waste in found)
    if not dry_run:
        for waste in found:
            if waste.reason == "half-written":
                place.discard(waste.key)
            elif waste.reason in ("unnamed", "artifact"):
                place.delete([waste.key])
            else:
                place.delete_folder(waste.key)
    if as_json:
        listed = [{"path": f"{store.root}/{w.key}", "reason": w.reason, "size_bytes": w.size_bytes} for w in found]
        report = {"schema": "mtlfleet/gc/1", "dry_run": dry_run, "size_bytes": freed, "deleted": listed}
        click.echo(json.dumps(report, indent=1))
        return
    for waste in found:
        click.echo(f"{waste.size_bytes:>12}  {waste.reason}  {waste.key}")
    click.echo(f"{'would free' if dry_run else 'freed'} {freed} bytes in {len(found)} places")


def _half_written(place: Place) -> Iterator[Waste]:
    """What a killed process left; a day is longer than any write takes."""
    for left in place.leftovers(DAY_S):
        yield Waste(left.key, "half-written", left.size_bytes)


def _unnamed(place: Place) -> Iterator[Waste]:
    """Sealed rows that the published file does not name. Who has opened an earlier one has a day to finish, and so has
    an ingester between sealing and publishing."""
    keys = list(place.walk("sealed"))
    if not keys:
        return
    from mtlfleet.store.mirror import published, sealed

    named = sealed(published(place.root))
    for key in keys:
        if key not in named and place.age_s(key) > DAY_S:
            yield Waste(key, "unnamed", place.size(key))


def _checkpoints(place: Place, study: str, *, finished: bool) -> Iterator[Waste]:
    """Checkpoints that no attempt may restore; with ``finished`` also those of trials that are done or diverged."""
    from mtlfleet.store import layout, restorables, trial_states

    trials = layout.values_in(place, layout.study_key("checkpoints", study), "trial")
    states = trial_states(place.root, study, trials)
    for trial in trials:
        over = states[trial] in ("done", "diverged")
        counting = {c.key for c in restorables(place.root, study, trial)}
        folder = layout.checkpoints_key(study, trial)
        for name in filter(layout.parse_checkpoint, place.folders(folder)):
            key = f"{folder}/{name}"
            if key not in counting:
                yield Waste(key, "superseded", place.size(key))
            elif finished and over:
                yield Waste(key, "finished", place.size(key))
