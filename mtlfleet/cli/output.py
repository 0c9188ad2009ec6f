"""How commands speak: results on stdout, everything else on stderr, colour only where it is wanted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from mtlfleet.errors import Diagnostic, Findings, UsageError, nearest
from mtlfleet.plan.place import Root, is_object_storage
from mtlfleet.plan.problems import printable, render

__all__ = [
    "as_json",
    "close_pipe",
    "colored",
    "diagnostic_json",
    "emit",
    "print_findings",
    "printable",
    "settings",
    "short_path",
    "study_file",
    "study_or_store",
    "table",
]

_STYLES = {"error": {"fg": "red", "bold": True}, "warning": {"fg": "yellow", "bold": True}, "frame": {"fg": "blue"}}


class Settings:
    """The global options of one run of the command line."""

    def __init__(self) -> None:
        self.color = "auto"
        self.verbose = 0


settings = Settings()


def colored(stream: TextIO) -> bool:
    """``--color``, then NO_COLOR, then FORCE_COLOR, then whether a terminal is at the other end."""
    if settings.color != "auto":
        return settings.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def as_json(schema: str, **fields: Any) -> str:
    """One documented object; ``schema`` names its shape and version."""
    return json.dumps({"schema": schema, **fields}, indent=2, allow_nan=False, default=str)


def emit(text: str) -> None:
    """A result, on stdout."""
    click.echo(text, color=True)


def diagnostic_json(d: Diagnostic) -> dict[str, Any]:
    """One finding as data."""
    place = d.place
    where = {"path": place and place.path, "line": place and place.line, "column": place and place.column}
    return {
        "code": d.code, "severity": d.severity, "message": d.message, **where, "length": place and place.length,
        "caret": d.caret, "notes": list(d.notes), "help": d.help,
    }  # fmt: skip


def print_findings(findings: Findings, footer: str = "") -> None:
    """Findings on stderr; under GitHub Actions as annotations too."""
    on = colored(sys.stderr)

    def paint(text: str, style: str) -> str:
        return click.style(text, **_STYLES.get(style, {})) if on else text  # type: ignore[arg-type]

    click.echo(render(findings, paint, footer=footer), err=True, color=on)
    if os.environ.get("GITHUB_ACTIONS"):
        for d in findings.diagnostics:
            click.echo(_annotation(d), err=True)


def _annotation(d: Diagnostic) -> str:
    text = printable(d.message).replace("%", "%25").replace("\n", "%0A")
    where = f"file={d.place.path},line={d.place.line},col={d.place.column}," if d.place else ""
    return f"::{d.severity} {where}title={d.code}::{text}"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> str:
    """Plain columns, two spaces apart; the headers in ``right`` are numbers."""
    cells = [[printable(str(c)) for c in row] for row in rows]
    widths = [max(len(h), *(len(row[i]) for row in cells), 0) for i, h in enumerate(headers)]

    def line(words: Sequence[str]) -> str:
        parts = [w.rjust(n) if h in right else w.ljust(n) for h, w, n in zip(headers, words, widths, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(headers), *(line(row) for row in cells)])


def study_file(given: str) -> Path:
    """The STUDY argument where only a file will do. Raises UsageError with the nearest file beside it."""
    path = Path(given)
    if path.is_dir():
        raise UsageError(f"{printable(given)} is a folder, expected a study file", help=_hint(path))
    if not path.exists():
        near = nearest(path.name, [p.name for p in _studies(path.parent)], cutoff=0.5)
        hint = f"did you mean `{path.parent / near}`?" if near else _hint(path.parent)
        raise UsageError(f"no such study file: {printable(given)}", help=hint)
    return path


def study_or_store(given: str) -> Root:
    """The STUDY argument of commands that only read: a study file, a store folder or ``s3://bucket/prefix``."""
    if is_object_storage(given):
        return given
    path = Path(given)
    return path if path.is_dir() else study_file(given)


def _studies(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))


def _hint(folder: Path) -> str | None:
    found = _studies(folder)[:5]
    return f"study files there: {', '.join(str(p) for p in found)}" if found else None


def close_pipe() -> None:
    """The reader has gone: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def short_path(root: Root, name: str = "") -> str:
    """A file of a store, or a folder: relative to the working folder where that is shorter."""
    if isinstance(root, str):
        return f"{root}/{name}".rstrip("/")
    path = root / name
    try:
        near = os.path.relpath(path)
    except ValueError:
        return str(path)
    return near if len(near) < len(str(path)) else str(path)
