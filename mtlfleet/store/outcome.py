"""A trial's last word, read straight from its files: what the launcher needs between two cells, without DuckDB."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.attempts import read_claim
from mtlfleet.store.place import at


class FinalValue(NamedTuple):
    """One metric of the checkpoint that validation chose."""

    task: str
    metric: str
    value: float


def newest_attempt(root: Root, study: str, trial: str) -> dict[str, Any] | None:
    """The claim of the highest attempt with its ``state``; None when the trial never ran."""
    numbers = [number for number, _ in layout.attempts_in(at(root), study, trial)]
    return read_claim(root, study, trial, max(numbers)) if numbers else None


def final_values(root: Root, study: str, trial: str, *, split: str) -> tuple[FinalValue, ...]:
    """The final rows of a finished trial on one split, in a fixed order; empty for a trial that is not done.

    Final rows are written by the attempt that finished, and that is the newest one, so no attempt window is needed.
    """
    newest = newest_attempt(root, study, trial)
    if newest is None or newest["state"] != "done":
        return ()
    place, folder = at(root), layout.attempt_key(study, trial, int(newest["attempt"]))
    parts = [f"{folder}/{name}" for name in place.names(folder) if name.startswith("metrics-")]
    found: set[FinalValue] = set()
    for content in place.read_all(parts):
        table = pq.read_table(pa.BufferReader(content), columns=["task", "metric", "value", "split", "final"])
        chosen = table.filter(pc.and_(table["final"], pc.equal(table["split"], split)))
        found.update(FinalValue(row["task"], row["metric"], row["value"]) for row in chosen.to_pylist())
    return tuple(sorted(found, key=lambda row: row[:2]))
