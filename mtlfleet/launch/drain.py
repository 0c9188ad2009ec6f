"""Stopping a launch so that nothing is lost: Ctrl-C, SIGTERM, or `mtlfleet stop`.

The first signal drains: running trials finish their stretch, leave a checkpoint, nothing new starts. The second stops
now; what was running resumes from its last checkpoint.
"""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mtlfleet.errors import EnvironmentProblem

REQUEST = ".stop"  # `mtlfleet stop` leaves it in the store; launch takes it away
LOCK = ".launch.lock"  # held by the launch that works on the store


def ask(root: Path) -> bool:
    """Leave a stop request for the launch that works on ``root``; False when none does."""
    lock = root / LOCK
    if not lock.exists():
        return False
    with lock.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            (root / REQUEST).touch()
            return True
    return False


class Drain:
    """A context manager that owns SIGINT and SIGTERM for its duration; ``requested`` is polled by the scheduler
    loop."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.request = root / REQUEST
        self.say = say
        self.code = 0  # exit code that the stop calls for
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Drain:
        self.request.unlink(missing_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.request.unlink(missing_ok=True)

    def _caught(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.code:
            raise KeyboardInterrupt
        self.code = 128 + number
        self.say("stopping: running trials leave a checkpoint; press Ctrl-C again to stop at once")

    def give_up(self, reason: str) -> None:
        """Drain because going on is useless; the launch then ends as for any trouble of the environment."""
        if not self.code:
            self.code = EnvironmentProblem.exit_code
            self.say(f"stopping: {reason}")

    @property
    def requested(self) -> bool:
        if not self.code and self.request.exists():
            self.code = 143
            self.say("stopping on request: running trials leave a checkpoint")
        return bool(self.code)
