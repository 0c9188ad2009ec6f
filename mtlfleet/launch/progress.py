"""What a launch looks like while it runs: a live table on a terminal, plain lines everywhere else. On stderr,
always."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from mtlfleet.plan import Trial

SUMMARY_S = 30.0
FRAME_S = 0.2
_BAR = 24


@dataclass
class Board:
    """Counts that both displays draw from. ``expected``: trials per method, final ones included before they are
    known."""

    title: str
    expected: Mapping[str, int]
    slots: int
    done: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    cached: int = 0
    running: dict[str, tuple[Trial, float, int, int]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> int:
        return sum(self.done.values()) + sum(self.bad.values())

    @property
    def total(self) -> int:
        return sum(self.expected.values())

    def summary(self) -> str:
        """One line: how many, how many bad, how long, how long still."""
        spent = time.monotonic() - self.started
        fresh = self.finished - self.cached
        left = self.total - self.finished
        parts = [
            f"{self.finished}/{self.total} trials",
            f"{len(self.running)} running",
            f"{sum(self.bad.values())} failed",
        ]
        if self.cached:
            parts.append(f"{self.cached} cached")
        parts.append(clock(spent))
        if fresh and left:
            parts.append(f"about {clock(spent / fresh * left)} left")
        return "  ".join(parts)


class Display(Protocol):
    """What the driver tells a display."""

    def start(self, board: Board) -> None: ...
    def event(self, word: str, trial: Trial, detail: str = "") -> None: ...
    def say(self, text: str) -> None: ...
    def tick(self) -> None: ...
    def stop(self) -> None: ...


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``.

    >>> clock(123), clock(3723)
    ('2:03', '1:02:03')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Plain:
    """A line for each change, and a summary now and then: for logs, pipes and CI."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self.board: Board | None = None
        self.last = time.monotonic()

    def start(self, board: Board) -> None:
        self.board = board

    def event(self, word: str, trial: Trial, detail: str = "") -> None:
        if word != "started":
            self._line(f"{word:<9} {trial.label:<44} {detail}".rstrip())

    def say(self, text: str) -> None:
        self._line(text)

    def tick(self) -> None:
        if self.board is not None and time.monotonic() - self.last > SUMMARY_S:
            self.last = time.monotonic()
            self._line(f"--        {self.board.summary()}")

    def stop(self) -> None:
        if self.board is not None:
            self._line(f"finished  {self.board.summary()}")

    def _line(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class Silent:
    """Nothing but what must be said."""

    def start(self, board: Board) -> None: ...
    def event(self, word: str, trial: Trial, detail: str = "") -> None: ...
    def tick(self) -> None: ...
    def stop(self) -> None: ...

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


class Live:
    """One bar per method, redrawn in place; failures scroll above it. Needs no more than 80 columns."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.console = Console(stderr=True, highlight=False)
        self.live = RichLive(console=self.console, auto_refresh=False, transient=False)
        self.board: Board | None = None
        self.drawn = 0.0

    def start(self, board: Board) -> None:
        self.board = board
        self.live.start()
        self._draw()

    def event(self, word: str, trial: Trial, detail: str = "") -> None:
        if word not in ("started", "done"):
            self.say(f"{word}: {trial.label} {detail}".rstrip())

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def tick(self) -> None:
        if time.monotonic() - self.drawn > FRAME_S:
            self._draw()

    def stop(self) -> None:
        self._draw()
        self.live.stop()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        if self.board is not None:
            self.live.update(render(self.board), refresh=True)


def render(board: Board) -> Any:
    """The live table as a rich renderable."""
    from rich.text import Text

    width = max((len(name) for name in board.expected), default=6)
    text = Text()
    for name, expected in board.expected.items():
        done, bad = board.done[name], board.bad[name]
        filled = round(_BAR * min(1.0, (done + bad) / expected)) if expected else _BAR
        text.append(f"  {name:<{width}}  ")
        text.append("━" * filled, style="green" if not bad else "yellow")
        text.append("─" * (_BAR - filled), style="dim")
        text.append(f"  {done + bad:>4}/{expected:<4}")
        if bad:
            text.append(f"  {bad} failed", style="bold red")
        text.append("\n")
    for trial, _, step, total in list(board.running.values())[: board.slots]:
        shown = f"{step}/{total} steps" if total else "starting"
        text.append(f"  > {trial.label}  {shown}\n", style="cyan")
    text.append("  " + board.summary(), style="bold")
    return text


def display(mode: str) -> Display:
    """``auto``: live on a terminal that can redraw, plain elsewhere; ``plain``; ``none``."""
    if mode == "none":
        return Silent()
    dumb = os.environ.get("TERM", "") in ("", "dumb") or bool(os.environ.get("CI"))
    if mode == "plain" or dumb or not sys.stderr.isatty():
        return Plain()
    return Live()
