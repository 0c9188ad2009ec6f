"""``mtlfleet gc``: free the disk of what no launch can use any more. Rows, claims and documents are never touched."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

DAY_S = 86_400.0


class Waste(NamedTuple):
    """Something that may go, and why."""

    path: Path
    reason: str

    @property
    def size_bytes(self) -> int:
        inside = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(p.lstat().st_size for p in inside if p.is_file())


@click.command("gc")
@click.argument("study", type=click.Path(path_type=Path))
@click.option(
    "--checkpoints", is_flag=True, help="Also every checkpoint of finished trials; their weights are then gone."
)
@click.option("--dry-run", is_flag=True, help="Say what would go; delete nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(study: Path, checkpoints: bool, dry_run: bool, as_json: bool) -> None:
    """Delete half-written files older than a day and superseded checkpoints of STUDY."""
    from mtlfleet.store.store import open_store

    store = open_store(study)
    found = [*_half_written(store.root), *_checkpoints(store.root, store.one_study(), finished=checkpoints)]
    sizes = [waste.size_bytes for waste in found]
    if not dry_run:
        for waste in found:
            _delete(waste.path)
    if as_json:
        listed = [{"path": str(w.path), "reason": w.reason, "size_bytes": n} for w, n in zip(found, sizes, strict=True)]
        report = {"schema": "mtlfleet/gc/1", "dry_run": dry_run, "size_bytes": sum(sizes), "deleted": listed}
        click.echo(json.dumps(report, indent=1))
        return
    for waste, size in zip(found, sizes, strict=True):
        click.echo(f"{size:>12}  {waste.reason}  {waste.path.relative_to(store.root)}")
    click.echo(f"{'would free' if dry_run else 'freed'} {sum(sizes)} bytes in {len(found)} places")


def _half_written(root: Path) -> Iterator[Waste]:
    """Temporary files that a killed process left; a day is longer than any write takes."""
    kinds = [root / kind for kind in ("segments", "documents", "claims", "checkpoints")]
    inside = [path for kind in kinds for path in kind.rglob(".*tmp-*")]
    for path in sorted([*root.glob(".*.tmp-*"), *inside]):
        if time.time() - path.lstat().st_mtime > DAY_S:
            yield Waste(path, "half-written")


def _checkpoints(root: Path, study: str, *, finished: bool) -> Iterator[Waste]:
    """Checkpoints that no attempt may restore; with ``finished`` also those of trials that are done or diverged."""
    from mtlfleet.store import restorables, trial_state
    from mtlfleet.store.layout import checkpoint_folder, entries, names_of, parse_checkpoint, studies_folder

    for trial in names_of(studies_folder(root, "checkpoints", study), "trial"):
        over = trial_state(root, study, trial) in ("done", "diverged")
        counting = {c.path for c in restorables(root, study, trial)}
        for entry in entries(checkpoint_folder(root, study, trial)):
            path = Path(entry.path)
            if parse_checkpoint(entry.name) and path not in counting:
                yield Waste(path, "superseded")
            elif parse_checkpoint(entry.name) and finished and over:
                yield Waste(path, "finished")


def _delete(path: Path) -> None:
    """Rename first, so that a folder half deleted is never taken for a checkpoint."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    doomed = path.with_name(f".{path.name}.tmp-deleted")
    path.rename(doomed)
    shutil.rmtree(doomed)
