"""Checkpoints in a store: folders that appear whole, under a name that says step and attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.place import at


@contextmanager
def new_checkpoint(root: Root, study: str, trial: str, step: int, attempt: int) -> Iterator[Path]:
    """An empty folder to write a checkpoint into. When the block ends without an error the checkpoint exists, synced;
    before that, or after a kill, there is none. Flush the rows it covers first."""
    place, key = at(root), layout.checkpoint_key(study, trial, step, attempt)
    try:
        with place.staging(key) as folder:
            yield folder
            place.put_folder(key, folder)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {place.root}/{key}: {error.strerror or error}",
            notes=["the checkpoint before it still serves"],
            help="free space or mend the permission, then run the same command again",
        ) from error


def open_checkpoint(root: Root, key: str) -> AbstractContextManager[Path]:
    """Its files, in a folder of this machine, while the context is open."""
    return at(root).open_folder(key)


def prune_checkpoints(root: Root, study: str, trial: str, attempt: int, keep: int) -> None:
    """Delete this attempt's checkpoints but for the newest ``keep``; other attempts' are not ours to delete."""
    place, folder = at(root), layout.checkpoints_key(study, trial)
    mine = [n for n in place.folders(folder) if (found := layout.parse_checkpoint(n)) and found[1] == attempt]
    for name in mine[:-keep] if keep else mine:
        place.delete_folder(f"{folder}/{name}")
