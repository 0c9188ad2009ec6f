"""Collecting diagnostics and printing them, with the line and a caret under the words at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mtlfleet.errors import Diagnostic, Findings, Place

MAX_ERRORS = 20
_WIDTH = 110

Paint = Callable[[str, str], str]


@dataclass
class Problems:
    """Diagnostics as they are found; ``findings`` sorts them by place and caps the errors."""

    source: str = ""
    found: list[Diagnostic] = field(default_factory=list)

    def add(
        self,
        code: str,
        message: str,
        place: Place | None,
        *,
        caret: str = "",
        notes: Iterable[str] = (),
        help: str | None = None,  # noqa: A002
        severity: str = "error",
    ) -> None:
        new = Diagnostic(code, message, place, caret, tuple(notes), help, severity)
        if new not in self.found:
            self.found.append(new)

    def warn(
        self,
        code: str,
        message: str,
        place: Place | None,
        *,
        notes: Iterable[str] = (),
        help: str | None = None,  # noqa: A002
    ) -> None:
        self.add(code, message, place, notes=notes, help=help, severity="warning")

    @property
    def any_error(self) -> bool:
        return any(d.severity == "error" for d in self.found)

    def findings(self) -> Findings:
        ordered = sorted(self.found, key=lambda d: (d.place.line, d.place.column) if d.place else (0, 0))
        errors = [d for d in ordered if d.severity == "error"]
        kept = set(map(id, errors[:MAX_ERRORS]))
        shown = [d for d in ordered if d.severity != "error" or id(d) in kept]
        if len(errors) > MAX_ERRORS:
            more = len(errors) - MAX_ERRORS
            last = errors[MAX_ERRORS].place
            shown.append(Diagnostic("E199", f"{more} more error{'s' if more > 1 else ''} not shown", last))
        return Findings(tuple(shown), self.source)


def _plain(text: str, _style: str) -> str:
    return text


def printable(text: str) -> str:
    """Text from a file or a log without the control characters that could drive a terminal.

    >>> printable("a\\x1b]52;c;x\\x07b")
    'a�]52;c;x�b'
    """
    return "".join(c if c == "\n" or (c.isprintable() or c == " ") else "�" for c in text)


def render(findings: Findings, paint: Paint = _plain, *, footer: str = "") -> str:
    """The findings as people read them, one block each, then a line that counts them."""
    lines = findings.source.splitlines()
    blocks = [_block(d, lines, paint) for d in findings.diagnostics]
    if findings.diagnostics:
        blocks.append(summary(findings) + (f"; {footer}" if footer else ""))
    return "\n".join(blocks)


def summary(findings: Findings) -> str:
    """``2 errors, 1 warning``."""
    parts = []
    for items, word in ((findings.errors, "error"), (findings.warnings, "warning")):
        if items:
            parts.append(f"{len(items)} {word}{'s' if len(items) > 1 else ''}")
    return ", ".join(parts) or "no errors"


def _block(d: Diagnostic, lines: list[str], paint: Paint) -> str:
    out = [paint(f"{d.severity}[{d.code}]", d.severity) + ": " + printable(d.message)]
    if d.place is not None:
        place = d.place
        pad = " " * len(str(place.line))
        out.append(f" {pad}{paint('-->', 'frame')} {place.path}:{place.line}:{place.column}")
        if 0 < place.line <= len(lines):
            text, column, length = _window(
                printable(lines[place.line - 1].replace("\t", " ")), place.column, place.length
            )
            bar = paint("|", "frame")
            out.append(f" {pad} {bar}")
            out.append(f" {place.line} {bar} {text}".rstrip())
            mark = paint("^" * length, d.severity) + (f" {printable(d.caret)}" if d.caret else "")
            out.append(f" {pad} {bar} {' ' * (column - 1)}{mark}")
    out += [f"   = note: {printable(note)}" for note in d.notes]
    if d.help:
        out.append(f"   = help: {printable(d.help)}")
    return "\n".join(out)


def _window(text: str, column: int, length: int) -> tuple[str, int, int]:
    """The part of a long line around the caret, with column and length adjusted to it."""
    column = min(column, len(text) + 1)
    if len(text) > _WIDTH:
        start = max(0, min(column - 20, len(text) - _WIDTH))
        text, column = text[start : start + _WIDTH], column - start
    return text, column, max(1, min(length, len(text) - column + 1))
