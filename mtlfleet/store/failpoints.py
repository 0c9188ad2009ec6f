"""Named places where a process can be made to die, to stop, or to find the disk full: how the fault tests reach every
moment that matters.

``MTLFLEET_FAILPOINT=half-written:2`` kills the process by SIGKILL at the second passage of that point;
``before-link:1:enospc`` raises ``OSError(ENOSPC)`` there instead; ``before-link:1:stop`` stops the process until
SIGCONT, which makes zombies. Several are separated by commas. Without the variable a passage costs one look at an
empty dict.
"""

from __future__ import annotations

import errno
import os
import signal

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

# Every point of the product, by who passes it. A test walks this list: a point that nothing reaches is an error there.
WRITER = (
    "before-link", "after-link", "half-written", "before-rename", "after-rename", "durable-not-acknowledged",
    "flushed-not-ended", "half-checkpoint", "after-checkpoint-rename",
)  # fmt: skip
INGESTER = (
    "between-rows-and-ledger", "before-commit", "after-commit", "before-checkpoint", "half-written", "sealed",
    "half-relieved", "relieved", "after-checkpoint", "half-copied", "before-rename", "after-rename",
)  # fmt: skip


def _armed(text: str) -> dict[str, tuple[int, str]]:
    """``name:n[:action]``, comma-separated -> name -> (passage, action)."""
    found = {}
    for one in filter(None, text.split(",")):
        name, _, rest = one.partition(":")
        nth, _, action = rest.partition(":")
        found[name] = (int(nth or 1), action or "kill")
    return found


_points = _armed(os.environ.get("MTLFLEET_FAILPOINT", ""))
_passed: dict[str, int] = {}


def arm(text: str) -> None:
    """Set the points of this process and start counting anew; what forked test processes use."""
    _points.clear()
    _points.update(_armed(text))
    _passed.clear()


def failpoint(name: str) -> None:
    """Do what was asked for at this point: nothing, die here, or raise OSError."""
    if not _points:
        return
    if name not in _points:
        return
    _passed[name] = _passed.get(name, 0) + 1
    nth, action = _points[name]
    if _passed[name] != nth:
        return
    if action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
        return
    code = getattr(errno, action.upper())
    raise OSError(code, os.strerror(code))
