"""Where a prompt's lines come from: prompt_toolkit when it is installed, else readline, else plain input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

KEYWORDS = (
    "SELECT", "FROM", "WHERE", "GROUP BY ALL", "ORDER BY ALL", "LIMIT", "JOIN", "USING", "HAVING", "QUALIFY", "WITH",
    "DESCRIBE", "SUMMARIZE", "PIVOT", "UNPIVOT", "FILTER", "EXCLUDE", "isfinite",
)  # fmt: skip


class Lines(Protocol):
    """Gives one line per call. Raises EOFError at the end, KeyboardInterrupt when a line is given up."""

    def read(self, prompt: str) -> str: ...


def lines(names: Sequence[str]) -> Lines:
    """The best there is for a person at a terminal; standard input line by line when there is none."""
    if not sys.stdin.isatty():
        return _Piped()
    history = _history()
    try:
        return _Toolkit(names, history)
    except ImportError:
        pass
    try:
        return _Readline(names, history)
    except ImportError:
        return _Piped()


def _history() -> Path | None:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    try:
        (state / "mtlfleet").mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return state / "mtlfleet/sql_history"


class _Piped:
    def read(self, prompt: str) -> str:  # noqa: ARG002
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


class _Toolkit:
    def __init__(self, names: Sequence[str], history: Path | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        self._session: Any = PromptSession(
            history=FileHistory(str(history)) if history else InMemoryHistory(),
            completer=WordCompleter([*names, *KEYWORDS], ignore_case=True, WORD=True),
            complete_while_typing=False,
        )

    def read(self, prompt: str) -> str:
        line: str = self._session.prompt(prompt)
        return line


class _Readline:
    def __init__(self, names: Sequence[str], history: Path | None) -> None:
        import readline

        self._readline, self._history = readline, history
        known = sorted([*names, *KEYWORDS])
        readline.set_completer(lambda text, n: _nth([k for k in known if k.lower().startswith(text.lower())], n))
        readline.parse_and_bind("tab: complete")
        readline.set_completer_delims(" \t\n,()=;")
        if history is not None and history.exists():
            try:
                readline.read_history_file(history)
            except OSError:
                self._history = None

    def read(self, prompt: str) -> str:
        line = input(prompt)
        if self._history is not None and line.strip():
            try:
                self._readline.write_history_file(self._history)
            except OSError:
                self._history = None
        return line


def _nth(found: Sequence[str], n: int) -> str | None:
    return found[n] if n < len(found) else None
