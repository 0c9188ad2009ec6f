"""AttemptWriter: the rows of one attempt on their way to Parquet segments, without making the training step wait."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa

from mtlfleet.plan.place import Root
from mtlfleet.store import layout, stamp
from mtlfleet.store.attempts import claim_attempt, end_attempt
from mtlfleet.store.failpoints import failpoint
from mtlfleet.store.place import at
from mtlfleet.store.schema import SCHEMA_VERSION, SEGMENT_TABLES

FLUSH_S = 10.0  # at first: a short run is seen soon
FLUSH_MAX_S = 60.0  # in the end: 300 trials then make ten files a second at most half the time
FLUSH_GROWTH = 1.2
FLUSH_ROWS = 50_000

Row = tuple[Any, ...]


class Part(NamedTuple):
    """One segment on its way: once it has a name, its bytes never change, however often writing them is tried."""

    key: str
    content: bytes


class AttemptWriter:
    """The one writer of one attempt, in the process of rank 0.

    Rows are buffered; a background thread writes them every ``FLUSH_S`` seconds (growing to ``FLUSH_MAX_S``) or
    ``FLUSH_ROWS`` rows. ``flush`` returns when everything given so far is on the disk: call it before a checkpoint is
    made visible. If writing fails (disk full) the rows stay in memory, the next call raises the EnvironmentProblem, and
    a later flush tries again, with the same bytes under the same name: an ingester may have seen the first try.
    """

    def __init__(self, root: Root, study: str, trial: str, attempt: int, restored_step: int) -> None:
        self.root, self.study, self.trial = root, study, trial
        self.attempt = attempt
        self.restored_step = restored_step
        self.place = at(root)
        self.folder = layout.attempt_key(study, trial, attempt)
        self._buffers: dict[str, list[Row]] = {name: [] for name in SEGMENT_TABLES}
        self._parts: dict[str, int] = dict.fromkeys(SEGMENT_TABLES, 0)
        self._parts_made: list[Part] = []  # encoded, not yet acknowledged; in the order of their rows
        self._rows = 0
        self._lock = threading.Lock()  # guards the buffers; never held while writing
        self._writing = threading.Lock()  # one flush at a time
        self._wake = threading.Event()
        self._closed = False
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._background, name=f"segments-{trial}", daemon=True)
        self._thread.start()

    @classmethod
    def claim(
        cls,
        root: Root,
        study: str,
        trial: str,
        *,
        restored_step: int,
        restored_checkpoint: str | None,
        world_size: int,
        facts: Mapping[str, object] | None = None,
    ) -> AttemptWriter:
        """Claim the next attempt of ``trial``, after its checkpoint (if any) was loaded.

        ``facts`` (node, ray_trial_id, environment, ...) are kept in the claim file. Raises EnvironmentProblem when the
        checkpoint was superseded while loading, or when the disk does not take the claim.
        """
        claim = {
            "started_at": datetime.now(UTC).isoformat(),
            "pid": os.getpid(),
            "node": socket.gethostname(),
            "ray_trial_id": None,
            **(facts or {}),
            "restored_step": int(restored_step),
            "restored_checkpoint": restored_checkpoint,
            "world_size": int(world_size),
            "schema_version": SCHEMA_VERSION,
        }
        attempt = claim_attempt(root, study, trial, claim)
        return cls(root, study, trial, attempt, int(restored_step))

    def _add(self, table: str, step: int, *values: Any) -> None:
        if self._problem is not None:
            raise self._problem
        if self._closed:
            raise ValueError(f"attempt {self.attempt} of trial {self.trial} is closed")
        with self._lock:
            self._buffers[table].append((step, *values))
            self._rows += 1
            full = self._rows >= FLUSH_ROWS
        if full:
            self._wake.set()

    def _counting(self, step: int) -> int:
        if step <= self.restored_step:
            raise ValueError(
                f"trial {self.trial}: a row at step {step} cannot count: attempt {self.attempt} restored step "
                f"{self.restored_step}, so its rows start at step {self.restored_step + 1}"
            )
        return int(step)

    def metric(
        self,
        step: int,
        epoch: float,
        split: str,
        task: str,
        metric: str,
        value: float,
        n: int = 0,
        final: bool = False,
    ) -> None:
        """One evaluation or epoch value. Raises ValueError for a step at or below the restored one."""
        self._add(
            "metrics", self._counting(step), float(epoch), split, task, metric, float(value), int(n), final, _now_us()
        )

    def step_metric(self, step: int, task: str, metric: str, value: float) -> None:
        """One value of a single training step."""
        self._add("step_metrics", self._counting(step), task, metric, float(value))

    def task_gradients(
        self,
        step: int,
        *,
        scope: str,
        tasks: Sequence[str],
        losses: Sequence[float],
        norms: Sequence[float],
        cos_upper: Sequence[float],
        weights: Sequence[float] | None,
        conflict_fraction: float | None,
        update_norm: float | None,
        status: str,
        descents: Sequence[float] | None = None,
        norm_to_sum: float | None = None,
        gram_condition: float | None = None,
    ) -> None:
        """The task gradients of one step; K tasks, ``cos_upper`` has K(K-1)/2 entries, pairs i<j row-major."""
        lists = (list(tasks), _floats(losses), _floats(norms), _floats(cos_upper), _floats(weights))
        scalars = (conflict_fraction, update_norm, status)
        effect = (_floats(descents), min(descents) if descents else None, norm_to_sum, gram_condition)
        self._add("task_gradients", self._counting(step), scope, *lists, *scalars, *effect)

    def checkpoint(self, step: int, uri: str, size_bytes: int, sha256: str) -> None:
        """Note a finished checkpoint. The folder itself is what ``restorable`` looks at."""
        self._add("checkpoints", int(step), uri, int(size_bytes), sha256, _now_us())

    def artifact(self, step: int, kind: str, uri: str, size_bytes: int, sha256: str) -> None:
        """Note a finished file of this attempt; see ``keep_artifact``."""
        self._add("artifacts", self._counting(step), kind, uri, int(size_bytes), sha256, _now_us())

    def event(self, step: int, level: str, kind: str, message: str) -> None:
        """Something worth telling; kept for every attempt, whether its rows count or not."""
        self._add("events", int(step), _now_us(), level, kind, message)

    def flush(self) -> None:
        """Return when every row given so far is durable. Raises EnvironmentProblem when the disk does not take them."""
        self._problem = None
        self._write()

    def close(
        self, state: str, reason: str = "", last_step: int | None = None, train_s: float = 0.0, device_s: float = 0.0
    ) -> None:
        """Flush, then write how the attempt ended (once; a word written earlier by the driver stands)."""
        self.flush()
        self._stop()
        failpoint("flushed-not-ended")
        end_attempt(
            self.root, self.study, self.trial, self.attempt,
            state=state, reason=reason, last_step=last_step, train_s=train_s, device_s=device_s,
        )  # fmt: skip

    def abandon(self) -> None:
        """Stop without a word: buffered rows are dropped and the attempt stays open, as after a kill."""
        with self._lock:
            self._buffers = {name: [] for name in SEGMENT_TABLES}
            self._parts_made = []
        self._stop()

    def _stop(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _background(self) -> None:
        interval = FLUSH_S
        while not self._closed:
            self._wake.wait(interval)
            self._wake.clear()
            if self._closed:
                return
            try:
                self._write()
            except Exception as error:  # told by the next call: nobody looks at this thread
                self._problem = error
            interval = min(FLUSH_MAX_S, interval * FLUSH_GROWTH)

    def _write(self) -> None:
        """Write what was given so far. Returns when all of it is durable."""
        with self._writing:
            for table in SEGMENT_TABLES:
                with self._lock:
                    rows = self._buffers[table]
                    self._buffers[table] = []
                    self._rows -= len(rows)
                if rows:
                    self._encode(table, rows)
            while self._parts_made:
                part = self._parts_made[0]
                self.place.put(part.key, part.content)
                failpoint("durable-not-acknowledged")
                self._parts_made = self._parts_made[1:]

    def _encode(self, table: str, rows: list[Row]) -> None:
        """Give these rows the next name of their table."""
        schema = SEGMENT_TABLES[table].arrow
        count = len(rows)
        keys = [pa.repeat(pa.scalar(v, f.type), count) for v, f in zip(self._key, schema, strict=False)]
        columns = zip(*rows, strict=True)
        values = [pa.array(column, type=f.type) for column, f in zip(columns, list(schema)[len(keys) :], strict=True)]
        content = stamp.encode(pa.Table.from_arrays([*keys, *values], schema=schema), self._facts(table))
        number = self._parts[table] + 1
        self._parts_made = [*self._parts_made, Part(f"{self.folder}/{table}-{number:06d}.parquet", content)]
        self._parts[table] = number

    @property
    def _key(self) -> tuple[str, str, int]:
        return self.study, self.trial, self.attempt

    def _facts(self, table: str) -> dict[str, str]:
        """What a segment says about itself, beside its rows."""
        units = {c.name: c.unit for c in SEGMENT_TABLES[table].columns if c.unit}
        return {
            "mtlfleet_schema_version": str(SCHEMA_VERSION),
            "mtlfleet_version": stamp.version_here(),
            "mtlfleet_table": table,
            "mtlfleet_attempt": json.dumps([*self._key, self.restored_step]),
            "mtlfleet_units": json.dumps(units),
        }


def _now_us() -> int:
    """Microseconds since 1970, UTC: a tenth of the price of a datetime object, there and in Arrow."""
    return time.time_ns() // 1000


def _floats(values: Sequence[float] | None) -> list[float]:
    return [] if values is None else [float(v) for v in values]
