"""A trial's last word, read straight from its files: what the launcher needs between two cells, without DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtlfleet.store import layout
from mtlfleet.store.attempts import read_claim


class FinalValue(NamedTuple):
    """One metric of the checkpoint that validation chose."""

    task: str
    metric: str
    value: float


def newest_attempt(root: Path | str, study: str, trial: str) -> dict[str, Any] | None:
    """The claim of the highest attempt with its ``state``; None when the trial never ran."""
    root = Path(root)
    numbers = [number for number, _ in layout.attempts_in(layout.trial_folder(root, study, trial))]
    return read_claim(root, study, trial, max(numbers)) if numbers else None


def final_values(root: Path | str, study: str, trial: str, *, split: str) -> tuple[FinalValue, ...]:
    """The final rows of a finished trial on one split, in a fixed order; empty for a trial that is not done.

    Final rows are written by the attempt that finished, and that is the newest one, so no attempt window is needed.
    """
    newest = newest_attempt(root, study, trial)
    if newest is None or newest["state"] != "done":
        return ()
    folder = layout.trial_folder(Path(root), study, trial) / f"attempt={newest['attempt']}"
    found: set[FinalValue] = set()
    for part in sorted(folder.glob("metrics-*.parquet")):
        # One file at a time: the folder's name says attempt=N, and pyarrow would add that as a column.
        with part.open("rb") as source:
            table = pq.read_table(source, columns=["task", "metric", "value", "split", "final"])
        chosen = table.filter(pc.and_(table["final"], pc.equal(table["split"], split)))
        found.update(FinalValue(row["task"], row["metric"], row["value"]) for row in chosen.to_pylist())
    return tuple(sorted(found, key=lambda row: row[:2]))
