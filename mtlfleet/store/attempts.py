"""Attempts: who runs a trial, from where, and which of its rows and checkpoints count.

An attempt is a number claimed by exclusive create, written *after* its checkpoint was loaded, so the claim states
the step really restored. A row of attempt a at step s counts iff ``restored_a < s <= min(restored_b for b > a)``, a
checkpoint iff ``s <= min(restored_b for b > a)``. Rows up to a checkpoint are durable before the checkpoint is,
hence a process that was given up but still runs (a zombie of attempt a) can only add rows that do not count. No
lock, no lease, no deduplication.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mtlfleet.errors import EnvironmentProblem, StoreDamaged
from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.place import Place, at

END_STATES = ("done", "diverged", "failed", "oom", "lost", "interrupted")


class Restorable(NamedTuple):
    """A checkpoint that counts; ``key`` is its folder, relative to the root."""

    step: int
    key: str
    attempt: int


def parsed(place: Place, key: str, content: bytes | None = None) -> dict[str, Any]:
    """A small file of ours, read unless its content is given. Raises StoreDamaged when it is not an object: such a file
    is never written in parts."""
    try:
        found = json.loads(place.read(key) if content is None else content)
    except ValueError as error:
        raise StoreDamaged(f"{place.root}/{key} is not JSON: {error}", help="restore the file from a backup") from None
    if not isinstance(found, dict):
        raise StoreDamaged(f"{place.root}/{key} holds a {type(found).__name__}, expected an object")
    return found


def read_claims(root: Root, attempts: Sequence[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """The claims of these (study, trial, attempt), each joined with how it ended (``state`` is ``running`` before)."""
    place = at(root)
    keys = [layout.attempt_key(*attempt) for attempt in attempts]
    claims = place.read_all([f"{key}.json" for key in keys])
    ends = place.read_all([f"{key}.end.json" for key in keys])
    return [
        {**parsed(place, f"{key}.json", claim), **(parsed(place, f"{key}.end.json", end) if end else _RUNNING)}
        for key, claim, end in zip(keys, claims, ends, strict=True)
    ]


_RUNNING = {"state": "running"}


def read_claim(root: Root, study: str, trial: str, attempt: int) -> dict[str, Any]:
    """One of ``read_claims``."""
    return read_claims(root, [(study, trial, attempt)])[0]


def _restored_steps(place: Place, study: str, trial: str) -> dict[int, int]:
    """Attempt -> step it restored."""
    numbers = [n for n, _ in layout.attempts_in(place, study, trial)]
    keys = [f"{layout.attempt_key(study, trial, n)}.json" for n in numbers]
    found = zip(numbers, keys, place.read_all(keys), strict=True)
    return {n: int(parsed(place, key, content)["restored_step"]) for n, key, content in found}


def upper_bound(restored: Mapping[int, int], attempt: int) -> int | None:
    """The largest step up to which ``attempt`` counts; None while nothing later was claimed.

    >>> upper_bound({1: 0, 2: 40, 3: 20}, 1), upper_bound({1: 0, 2: 40, 3: 20}, 3)
    (20, None)
    """
    return min((step for number, step in restored.items() if number > attempt), default=None)


def restorables(root: Root, study: str, trial: str) -> tuple[Restorable, ...]:
    """Every checkpoint that counts, newest first: the next one serves when the first cannot be read."""
    place = at(root)
    folder = layout.checkpoints_key(study, trial)
    listed = [(found, name) for name in place.folders(folder) if (found := layout.parse_checkpoint(name))]
    restored = _restored_steps(place, study, trial) if listed else {}
    counting = [
        Restorable(step, f"{folder}/{name}", attempt)
        for (step, attempt), name in listed
        if attempt in restored and ((upto := upper_bound(restored, attempt)) is None or step <= upto)
    ]
    return tuple(sorted(counting, key=lambda c: (c.step, c.attempt), reverse=True))


def restorable(root: Root, study: str, trial: str) -> Restorable | None:
    """The newest checkpoint that counts, None when a trial must start from its seed."""
    return next(iter(restorables(root, study, trial)), None)


def claim_attempt(root: Root, study: str, trial: str, facts: Mapping[str, Any]) -> int:
    """Write the next attempt's claim; ``facts`` hold ``restored_step`` and ``restored_checkpoint``.

    Numbers are taken one after the other, so whoever gets number n saw every claim below n. Raises
    EnvironmentProblem when one of those superseded the checkpoint in the meantime: that attempt must not run.
    """
    place = at(root)
    while True:
        names = place.names(layout.trial_key(study, trial))
        number = max([layout.retired_among(names), *(n for n, _ in layout.attempts_among(names))]) + 1
        _refuse_superseded(place, study, trial, facts)
        claim = {"attempt": number, **facts}
        if place.put_new(f"{layout.attempt_key(study, trial, number)}.json", _json(claim)):
            return number


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _refuse_superseded(place: Place, study: str, trial: str, facts: Mapping[str, Any]) -> None:
    name = str(facts.get("restored_checkpoint") or "").rpartition("/")[2]
    found = layout.parse_checkpoint(name)
    if found is None:
        return
    step, attempt = found
    upto = upper_bound(_restored_steps(place, study, trial), attempt)
    if upto is not None and step > upto:
        raise EnvironmentProblem(
            f"trial {trial}: checkpoint {name} was superseded while it was being loaded",
            notes=[f"a later attempt restored step {upto}"],
            help="start the trial again; it will find the checkpoint that counts",
        )


def end_attempt(
    root: Root,
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
    return at(root).put_new(f"{layout.attempt_key(study, trial, attempt)}.end.json", _json(end))


def trial_state(root: Root, study: str, trial: str) -> str:
    """``missing``, ``running``, or how the highest attempt ended."""
    return trial_states(root, study, [trial])[trial]


def trial_states(root: Root, study: str, ids: Iterable[str]) -> dict[str, str]:
    """The state of each trial, in the order given; trials that no one started cost nothing."""
    place = at(root)
    states = dict.fromkeys(ids, "missing")
    there = set(layout.values_in(place, layout.study_key("segments", study), "trial"))
    started = [trial for trial in states if trial in there]
    ends: dict[str, str] = {}  # trial -> key of its last word
    for trial, names in zip(started, place.names_in([layout.trial_key(study, t) for t in started]), strict=True):
        attempts = layout.attempts_among(names)
        if not attempts:
            continue
        number, ended = attempts[-1]
        states[trial] = "running"
        if ended:
            ends[trial] = f"{layout.attempt_key(study, trial, number)}.end.json"
    words = place.read_all(list(ends.values()))
    for (trial, key), content in zip(ends.items(), words, strict=True):
        states[trial] = str(parsed(place, key, content)["state"])
    return states
