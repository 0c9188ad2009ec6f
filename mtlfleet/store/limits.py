"""Bounds on a process that runs somebody's query: memory, core dumps, and a life no longer than its parent's.

The asking side imports this too, so what only the bound process needs is imported there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SET_PDEATHSIG = 1
_SLACK_BYTES = 2 << 30  # interpreter, libraries, thread stacks, and the answer on its way out
MIB = 1 << 20


def memory_bytes() -> int:
    """What DuckDB may use: half of the machine's memory, at least 256 MiB, at most 8 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(256 * MIB, min(8192 * MIB, total // 2))


def scratch_bytes(folder: Path) -> int:
    """What a large sort may spill to ``folder``: half of what is free there, at most 16 GiB."""
    found = os.statvfs(folder)
    return min(16 << 30, found.f_bavail * found.f_frsize // 2)


def bind(memory: int, parent: int) -> None:
    """From here on this process cannot hold much more than ``memory`` bytes, leaves no core file, and on Linux is
    killed when process ``parent`` dies. DuckDB's own limit does not cover everything a query can allocate."""
    import ctypes
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    bound = memory + _SLACK_BYTES
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or bound <= hard:
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    ctypes.CDLL(None, use_errno=True).prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before the wish was heard
        os._exit(1)
