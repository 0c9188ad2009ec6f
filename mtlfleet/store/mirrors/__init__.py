"""Copies of a study's results in other people's trackers. A mirror reads the store and is never read back.

Mirroring again brings what is new: a trial whose rows changed is written anew, the others are left alone.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.store.store import Store


class Mirrored(NamedTuple):
    """What a mirror did. ``withheld``: values that are NaN or infinite and that the tracker cannot hold."""

    written: int
    unchanged: int
    values: int
    withheld: int

    def __str__(self) -> str:
        kept = f", {self.withheld} NaN or infinite values kept back and named in tags" if self.withheld else ""
        trials = f"{self.written} trial{'s' if self.written != 1 else ''}"
        return f"{trials} with {self.values} values written, {self.unchanged} unchanged{kept}"


def require(kind: str) -> None:
    """Raises EnvironmentProblem when the library behind a mirror is not installed."""
    if find_spec(kind) is None:
        raise EnvironmentProblem(
            f"a mirror to {kind} needs the package `{kind}`, which is not installed",
            help=f"pip install 'mtlfleet[{kind}]'",
        )


def mirror(kind: str, store: Store, study: str, target: str) -> Mirrored:
    """Bring the study's trials to ``target``: a tracking URI or folder (mlflow), a folder (tensorboard).

    Raises EnvironmentProblem when the library is missing or the target does not take the data.
    """
    require(kind)
    module = import_module(f"mtlfleet.store.mirrors.to_{kind}")
    found: Mirrored = module.mirror(store, study, target)
    return found
