"""A mirror for TensorBoard: one folder of events per trial. NaN and infinities are written as they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.store.mirrors import Mirrored
from mtlfleet.store.mirrors.traces import Trace, traces
from mtlfleet.store.store import Store

_MARK = ".mtlfleet"  # holds the hash of what a folder says


def mirror(store: Store, study: str, target: str) -> Mirrored:
    """One run per trial below ``target``, named by label and id; a folder that another program made is not touched."""
    root = Path(target)
    written = unchanged = values = 0
    try:
        root.mkdir(parents=True, exist_ok=True)
        for trace in traces(store, study):
            folder = root / _name(trace)
            mark = folder / _MARK
            if mark.exists() and mark.read_text() == trace.sha256:
                unchanged += 1
                continue
            if folder.exists() and not mark.exists():
                raise EnvironmentProblem(f"{folder} is there and was not made by mtlfleet", help="name another folder")
            _replace(folder, trace)
            written += 1
            values += len(trace.points)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {root}: {error.strerror or error}") from None
    return Mirrored(written, unchanged, values, 0)


def _name(trace: Trace) -> str:
    """A path component: TensorBoard shows it as the run's name."""
    label = re.sub(r"[^A-Za-z0-9_.=-]+", "-", str(trace.facts["label"] or "")).strip("-.")[:80]
    return f"{label}-{trace.facts['trial_id']}" if label else str(trace.facts["trial_id"])


def _replace(folder: Path, trace: Trace) -> None:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    _write(part, trace)
    (part / _MARK).write_text(trace.sha256)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _write(folder: Path, trace: Trace) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    started = trace.facts["started_at"]
    at = started.timestamp() if started else 0.0
    writer: Any = EventFileWriter(str(folder))
    try:
        for point in trace.points:
            at = point.at.timestamp() if point.at else at  # single steps carry no clock: that of the row before
            value = Summary.Value(tag=point.name, simple_value=point.value)
            writer.add_event(Event(wall_time=at, step=point.step, summary=Summary(value=[value])))
    finally:
        writer.close()
