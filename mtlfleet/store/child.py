"""Start the process that answers a query, the cheap way where that is safe.

A forked copy of this process saves the start of a second Python, which costs half of a small query. It is taken where
nothing was loaded yet that starts threads: a fork carries only the thread that called it, and Landlock binds only
threads that come later. Elsewhere (notebooks, tests, macOS) a fresh Python is started. Both run ``reader.serve``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from mtlfleet.store import limits

_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT", "VIRTUAL_ENV")
_THREADED = ("duckdb", "pyarrow", "numpy", "torch", "ray")


class Child:
    """A process with a pipe to it and two from it; in a process group of its own, so that Ctrl-C reaches only us."""

    def __init__(self, scratch: str, *, landlock: bool) -> None:
        asked, self._ask = _pipe()
        self._answer, answered = _pipe()
        self._report, reported = _pipe()
        ends = (asked, answered, reported)
        memory = limits.memory_bytes()
        try:
            if may_fork():
                self.pid = _fork(ends, scratch, landlock=landlock, memory=memory)
            else:
                self.pid = _spawn(ends, scratch, landlock=landlock, memory=memory)
        finally:
            for end in ends:
                os.close(end)
        self.stdin: IO[bytes] = os.fdopen(self._ask, "wb")
        self.stdout: IO[bytes] = os.fdopen(self._answer, "rb")
        self.stderr: IO[bytes] = os.fdopen(self._report, "rb")
        self.returncode: int | None = None
        self._reaping = threading.Lock()

    def kill(self) -> None:
        with self._reaping:
            if self.returncode is None:
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = float("inf")) -> int | None:
        """The exit status, negative for a signal; None while it still runs after ``timeout`` seconds."""
        until, pause = time.monotonic() + timeout, 0.0005
        while True:
            with self._reaping:
                if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
                    self.returncode = os.waitstatus_to_exitcode(found[1])
            if self.returncode is not None or time.monotonic() >= until:
                return self.returncode
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def close(self) -> None:
        """End it, whatever it does."""
        self.kill()
        self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            with suppress(BrokenPipeError):  # what was buffered for it
                pipe.close()


def may_fork() -> bool:
    """Whether a copy of this process is as good as a fresh one."""
    if sys.platform != "linux" or any(name in sys.modules for name in _THREADED):
        return False
    return sum(1 for _ in Path("/proc/self/task").iterdir()) == 1


def _pipe() -> tuple[int, int]:
    """(read, write), neither of them 0, 1 or 2, which may be free where this process was started without them."""
    import fcntl

    found = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in found)
    for end in found:
        os.close(end)
    return moved[0], moved[1]


def _fork(ends: tuple[int, int, int], scratch: str, *, landlock: bool, memory: int) -> int:
    from mtlfleet.store import reader

    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _become(ends)
        reader.serve(Path(scratch), landlock=landlock, memory=memory, parent=parent)
    except BaseException as error:  # nothing of the copy may go on into what the original was doing
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(1)


def _become(ends: tuple[int, int, int]) -> None:
    """Drop what a fresh process would not have: the terminal's group, open files, handlers, the environment."""
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for target, end in enumerate(ends):
        os.dup2(end, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for name in set(os.environ) - set(_KEPT):
        del os.environ[name]


def _spawn(ends: tuple[int, int, int], scratch: str, *, landlock: bool, memory: int) -> int:
    import mtlfleet

    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment["PYTHONPATH"] = str(Path(next(iter(mtlfleet.__path__))).parent)
    words = [scratch, str(int(landlock)), str(memory), str(os.getpid())]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "mtlfleet.store.reader", *words],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, end, target) for target, end in enumerate(ends)],
        setpgroup=0,
    )
