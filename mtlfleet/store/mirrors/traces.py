"""What is mirrored of a trial: its facts, and every number that counts, by name and step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from mtlfleet.store.store import Store

_TRIALS = """
SELECT trial_id, label, phase, method, method_use, dataset, architecture, task, seed, config_index,
       CAST(params AS VARCHAR) AS params, state, exit_reason, started_at, ended_at
FROM trial_summary WHERE study_id = ? AND state <> 'missing' ORDER BY trial_id"""
_POINTS = """
SELECT concat_ws('/', split, CASE task WHEN '*' THEN 'all' ELSE task END, metric) AS name, step, value, logged_at AS at
FROM metrics WHERE study_id = ? AND trial_id = ?
UNION ALL
SELECT concat_ws('/', 'step', CASE task WHEN '*' THEN 'all' ELSE task END, metric), step, value, NULL
FROM step_metrics WHERE study_id = ? AND trial_id = ?
ORDER BY step, name"""


_CHOSEN = ("method", "method_use", "dataset", "architecture", "task", "seed", "phase", "config_index")


class Point(NamedTuple):
    """One number: ``name`` is split/task/metric; ``at`` when it was logged, if that is known."""

    name: str
    step: int
    value: float
    at: datetime | None


@dataclass(frozen=True)
class Trace:
    """One trial with its numbers."""

    facts: Mapping[str, Any]
    points: tuple[Point, ...]

    @property
    def params(self) -> dict[str, str]:
        """Everything that was chosen before the trial ran."""
        chosen = {
            k: self.facts[k] for k in ("method", "dataset", "architecture", "task", "seed", "phase", "config_index")
        }
        own = json.loads(self.facts["params"] or "{}")
        return {k: str(v) for k, v in {**chosen, **(own if isinstance(own, dict) else {})}.items() if v is not None}

    @property
    def sha256(self) -> str:
        """Changes whenever a number, the state or a parameter does."""
        found = hashlib.sha256(repr(sorted(self.params.items())).encode())
        found.update(repr((self.facts["state"], self.facts["exit_reason"])).encode())
        for point in self.points:
            found.update(f"{point.name}\x1f{point.step}\x1f{point.value!r}\n".encode())
        return found.hexdigest()


def traces(store: Store, study: str) -> Iterator[Trace]:
    """Every trial that was started, from one consistent state of the store."""
    with store.session() as session:
        for facts in session.sql(_TRIALS, [study]).to_pylist():
            rows = session.sql(_POINTS, [study, facts["trial_id"]] * 2)
            columns = (rows[name].to_pylist() for name in ("name", "step", "value", "at"))
            yield Trace(facts, tuple(Point(*row) for row in zip(*columns, strict=True) if row[2] is not None))
