"""Attempts: who runs a trial, from where, and which of its rows and checkpoints count.

An attempt is a number claimed by exclusive create, written *after* its checkpoint was loaded, so the claim states
the step really restored. A row of attempt a at step s counts iff ``restored_a < s <= min(restored_b for b > a)``, a
checkpoint iff ``s <= min(restored_b for b > a)``. Rows up to a checkpoint are durable before the checkpoint is,
hence a process that was given up but still runs (a zombie of attempt a) can only add rows that do not count. No
lock, no lease, no deduplication.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.store import durable, layout

END_STATES = ("done", "diverged", "failed", "oom", "lost", "interrupted")


class Restorable(NamedTuple):
    """A checkpoint that counts."""

    step: int
    path: Path
    attempt: int


def read_json(path: Path) -> dict[str, Any]:
    """A small file of ours. Raises StoreDamaged when it is not an object: such a file is never written in parts."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise StoreDamaged(f"{path} is not JSON: {error}", help="restore the file from a backup") from None
    if not isinstance(found, dict):
        raise StoreDamaged(f"{path} holds a {type(found).__name__}, expected an object")
    return found


def read_claim(root: Path, study: str, trial: str, attempt: int) -> dict[str, Any]:
    """The claim of an attempt, joined with how it ended (``state`` is ``running`` before that)."""
    folder = layout.trial_folder(root, study, trial)
    claim = read_json(folder / f"attempt={attempt}.json")
    try:
        return {**claim, **read_json(folder / f"attempt={attempt}.end.json")}
    except FileNotFoundError:
        return {**claim, "state": "running"}


def _restored_steps(root: Path, study: str, trial: str) -> dict[int, int]:
    """Attempt -> step it restored."""
    folder = layout.trial_folder(root, study, trial)
    return {n: int(read_json(folder / f"attempt={n}.json")["restored_step"]) for n, _ in layout.attempts_in(folder)}


def upper_bound(restored: Mapping[int, int], attempt: int) -> int | None:
    """The largest step up to which ``attempt`` counts; None while nothing later was claimed.

    >>> upper_bound({1: 0, 2: 40, 3: 20}, 1), upper_bound({1: 0, 2: 40, 3: 20}, 3)
    (20, None)
    """
    return min((step for number, step in restored.items() if number > attempt), default=None)


def restorables(root: Path | str, study: str, trial: str) -> tuple[Restorable, ...]:
    """Every checkpoint that counts, newest first: the next one serves when the first cannot be read."""
    root = Path(root)
    listed = [
        (found, Path(entry.path))
        for entry in layout.entries(layout.checkpoint_folder(root, study, trial))
        if (found := layout.parse_checkpoint(entry.name)) and entry.is_dir() and layout.entries(entry.path)
    ]
    restored = _restored_steps(root, study, trial) if listed else {}
    counting = [
        Restorable(step, path, attempt)
        for (step, attempt), path in listed
        if attempt in restored and ((upto := upper_bound(restored, attempt)) is None or step <= upto)
    ]
    return tuple(sorted(counting, key=lambda c: (c.step, c.attempt), reverse=True))


def restorable(root: Path | str, study: str, trial: str) -> Restorable | None:
    """The newest checkpoint that counts, None when a trial must start from its seed."""
    return next(iter(restorables(root, study, trial)), None)


def claim_attempt(root: Path, study: str, trial: str, facts: Mapping[str, Any]) -> int:
    """Write the next attempt's claim; ``facts`` hold ``restored_step`` and ``restored_checkpoint``.

    Numbers are taken one after the other, so whoever gets number n saw every claim below n. Raises
    EnvironmentProblem when one of those superseded the checkpoint in the meantime: that attempt must not run.
    """
    folder = layout.trial_folder(root, study, trial)
    durable.make_folder(folder)
    while True:
        number = max((n for n, _ in layout.attempts_in(folder)), default=0) + 1
        _refuse_superseded(root, study, trial, facts)
        claim = {"attempt": number, **facts}
        if durable.create(folder / f"attempt={number}.json", json.dumps(claim, sort_keys=True).encode()):
            return number


def _refuse_superseded(root: Path, study: str, trial: str, facts: Mapping[str, Any]) -> None:
    checkpoint = facts.get("restored_checkpoint")
    found = layout.parse_checkpoint(Path(checkpoint).name) if checkpoint else None
    if found is None:
        return
    step, attempt = found
    upto = upper_bound(_restored_steps(root, study, trial), attempt)
    if upto is not None and step > upto:
        raise EnvironmentProblem(
            f"trial {trial}: checkpoint {Path(str(checkpoint)).name} was superseded while it was being loaded",
            notes=[f"a later attempt restored step {upto}"],
            help="start the trial again; it will find the checkpoint that counts",
        )


def end_attempt(
    root: Path | str,
    study: str,
    trial: str,
    attempt: int,
    *,
    state: str,
    reason: str = "",
    last_step: int | None = None,
    train_s: float = 0.0,
    device_s: float = 0.0,
) -> bool:
    """Write how an attempt ended, once. Returns False when that had been written before: the first word stands."""
    if state not in END_STATES:
        raise ValueError(f"state {state!r}: expected one of {', '.join(END_STATES)}")
    end = {
        "state": state,
        "exit_reason": reason,
        "last_step": last_step,
        "ended_at": datetime.now(UTC).isoformat(),
        "train_s": float(train_s),
        "device_s": float(device_s),
    }
    path = layout.trial_folder(Path(root), study, trial) / f"attempt={attempt}.end.json"
    return durable.create(path, json.dumps(end, sort_keys=True).encode())


def _state(folder: Path) -> str:
    attempts = layout.attempts_in(folder)
    if not attempts:
        return "missing"
    number, ended = attempts[-1]
    return str(read_json(folder / f"attempt={number}.end.json")["state"]) if ended else "running"


def trial_state(root: Path | str, study: str, trial: str) -> str:
    """``missing``, ``running``, or how the highest attempt ended."""
    return _state(layout.trial_folder(Path(root), study, trial))


def trial_states(root: Path | str, study: str, ids: Iterable[str]) -> dict[str, str]:
    """The state of each trial, in the order given; trials that no one started cost nothing."""
    folder = layout.studies_folder(Path(root), "segments", study)
    started = {entry.name for entry in layout.entries(folder)}
    return {t: _state(folder / f"trial={t}") if f"trial={t}" in started else "missing" for t in ids}
