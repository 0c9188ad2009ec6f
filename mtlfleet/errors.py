"""What a user can act on: every error mtlfleet raises on purpose, with the exit code the command line gives it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple


class FleetError(Exception):
    """A problem the user can act on. The command line prints it without a traceback and exits with ``exit_code``."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, notes: Iterable[str] = (), help: str | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.message = message
        self.notes = tuple(notes)
        self.help = help

    def __str__(self) -> str:
        lines = [self.message, *(f"  = note: {note}" for note in self.notes)]
        if self.help:
            lines.append(f"  = help: {self.help}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.notes, self.help))


def _rebuild(kind: type[FleetError], message: str, notes: tuple[str, ...], help_: str | None) -> FleetError:
    """Unpickle a FleetError: it crosses process borders between ranks and driver."""
    return kind(message, notes=notes, help=help_)


class UsageError(FleetError):
    """The command's own words are off."""

    exit_code = 2


class UnknownName(FleetError):
    """A name that no registered citizen carries."""

    exit_code = 3


class PluginError(FleetError):
    """A plug-in that cannot be found, parsed or imported."""

    exit_code = 3


class EngineRefused(FleetError, TypeError):
    """A model that the gradient engine cannot treat correctly."""

    exit_code = 3


class EnvironmentProblem(FleetError):
    """The cluster, a disk, a device or a permission is not as needed."""

    exit_code = 4


class StoreAway(EnvironmentProblem):
    """The server that keeps the results did not answer for as long as it was asked; it may be back later."""


class StoreDamaged(FleetError):
    """The results store contradicts itself; nothing was overwritten."""

    exit_code = 7


class QueryRefused(FleetError):
    """A query that would do more than read."""

    exit_code = 3


class QueryFailed(FleetError):
    """DuckDB could not answer the query."""

    exit_code = 2


class QueryTimeout(FleetError):
    """The query ran past its time limit."""

    exit_code = 4


class Place(NamedTuple):
    """Where in a file: 1-based line and column, and how many characters the caret underlines."""

    path: str
    line: int
    column: int
    length: int = 1


class Diagnostic(NamedTuple):
    """One finding about a study file, in the form that the terminal, ``--json`` and editors share."""

    code: str
    message: str
    place: Place | None = None
    caret: str = ""
    notes: tuple[str, ...] = ()
    help: str | None = None
    severity: str = "error"


class Findings(NamedTuple):
    """All diagnostics of one reading of a study file, in file order."""

    diagnostics: tuple[Diagnostic, ...] = ()
    source: str = ""

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity != "error")


class StudyInvalid(FleetError):
    """A study file with errors; carries all of them at once."""

    exit_code = 3

    def __init__(self, findings: Findings, path: str = "") -> None:
        count = len(findings.errors)
        super().__init__(f"{path or 'study'}: {count} error{'s' if count != 1 else ''}")
        self.findings = findings
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (StudyInvalid, (self.findings, self.path))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name closest to ``name``, or None if none is close.

    >>> nearest("imtlg", ["imtl_g", "mgda"])
    'imtl_g'
    """
    import difflib

    names = sorted(known)
    folded = {n.lower().replace("-", "").replace("_", ""): n for n in names}
    plain = name.lower().replace("-", "").replace("_", "")
    found = difflib.get_close_matches(plain, list(folded), n=1, cutoff=cutoff)
    return folded[found[0]] if found else None


def among(known: Iterable[str], name: str, most: int = 12) -> str:
    """The note on what there is: every known name, or where they are many the closest ones and how many more.

    >>> among(["mgda", "sum"], "mgad")
    'known: mgda, sum'
    >>> among([f"task_{n}" for n in range(40)], "tsk_31", most=6)
    'known: task_31, task_3, task_1 and 37 more'
    """
    names = list(known)
    if len(names) <= most:
        return f"known: {', '.join(names) or 'none'}"
    import difflib

    close = difflib.get_close_matches(name, names, n=most // 2, cutoff=0.0)
    return f"known: {', '.join(close)} and {len(names) - len(close)} more"
