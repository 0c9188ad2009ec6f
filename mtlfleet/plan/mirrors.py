"""Where a study's results are copied to when a launch ends. A site setting: it enters no key."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, get_args

Kind = Literal["mlflow", "tensorboard"]


class Mirror(NamedTuple):
    """One tracker and its place: a folder, or for MLflow a tracking URI."""

    kind: Kind
    target: str


def mirrors(given: dict[str, str | None], folder: Path) -> tuple[Mirror, ...]:
    """What the study file names; relative folders lie beside it, and an address stays as it is."""
    found = []
    for kind in get_args(Kind):
        target = given.get(kind)
        if target and "://" not in target and target not in ("databricks", "uc"):
            target = str(folder / target)
        if target:
            found.append(Mirror(kind, target))
    return tuple(found)
