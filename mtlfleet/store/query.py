"""Ask a store in a guarded child process: it may read this store and nothing else, within limits of time and memory."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal, NamedTuple

from mtlfleet import errors
from mtlfleet.plan.place import Root
from mtlfleet.store.child import Child
from mtlfleet.store.freshness import Freshness
from mtlfleet.store.mirror import files as files_of

Source = Literal["live", "snapshot", "segments"]
_GRACE_S = 15.0  # for starting on a busy machine, and for being interrupted


def names() -> list[str]:
    """The tables and views a query may name."""
    from importlib.resources import files

    from mtlfleet.store.schema import ALL_TABLES

    views = re.findall(r"CREATE OR REPLACE VIEW (\w+)", files("mtlfleet.store").joinpath("views.sql").read_text())
    return sorted({*views, *(t.name for t in ALL_TABLES)})


class Question(NamedTuple):
    """One query. ``source``: the published file and what was flushed since (live), only the former (snapshot), or the
    segments alone. ``limit`` shortens a table for people; ``form`` is one of ``formats.FORMATS``."""

    query: str
    params: Mapping[str, Any] = MappingProxyType({})
    form: str = "arrow"
    source: Source = "live"
    timeout_s: float = 60.0
    limit: int | None = None


class Reader:
    """A guarded child, started before its question is known. Use it as a context; it answers once."""

    def __init__(self, *, landlock: bool = True) -> None:
        self._scratch = tempfile.mkdtemp(prefix="mtlfleet-sql-")
        self._child = Child(self._scratch, landlock=landlock)
        self._watchdog: threading.Timer | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._child.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def ask(self, root: Path, question: Question) -> IO[bytes]:
        """Send the question; returns the stream its answer comes on. Call ``report`` when it was read."""
        request = {
            "root": str(root),
            "query": question.query,
            "params": dict(question.params),
            "form": question.form,
            "source": question.source,
            "timeout_s": question.timeout_s,
            "limit": question.limit,
        }
        self._watchdog = threading.Timer(question.timeout_s + _GRACE_S, self._child.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        try:
            self._child.stdin.write(json.dumps(request).encode())
            self._child.stdin.close()
        except BrokenPipeError:  # it died before; why, stands in its report
            self.report()
        return self._child.stdout

    def report(self) -> dict[str, Any]:
        """What the child said about itself. Raises the error it reported."""
        return _report(self._child)

    def raise_if_killed(self) -> None:
        if (self._child.wait(0.5) or 0) < 0:
            raise _killed() from None


def ask(root: Root, question: Question, out: IO[bytes], *, reader: Reader | None = None) -> Freshness:
    """Write the answer to ``out`` in the form asked for. ``reader``: one started earlier, else a new one.

    Raises QueryRefused, QueryFailed, QueryTimeout, StoreDamaged, maybe after a part was written.
    """
    with reader or Reader() as child, files_of(root, use_snapshot=question.source != "segments") as folder:
        shutil.copyfileobj(child.ask(folder, question), out)
        out.flush()
        return _freshness(child.report())


class Answer:
    """An answer being read: ``reader`` is a ``pyarrow.RecordBatchReader``; ``freshness`` is known after the last
    batch."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.facts: dict[str, Any] = {}

    @property
    def freshness(self) -> Freshness:
        return _freshness(self.facts)


@contextmanager
def guarded(
    root: Root,
    query: str,
    *,
    params: Mapping[str, Any] | None = None,
    timeout_s: float = 60.0,
    source: Source = "live",
    landlock: bool = True,
) -> Iterator[Answer]:
    """Run ``query`` in the guarded child and give its answer as a stream of Arrow batches.

    Raises QueryRefused, QueryFailed, QueryTimeout, StoreDamaged. An error after the first batch is raised when the
    block ends, so write to a temporary file and keep it only after that."""
    question = Question(query=query, params=params or {}, timeout_s=timeout_s, source=source)
    with Reader(landlock=landlock) as child, files_of(root, use_snapshot=source != "segments") as folder:
        answer = Answer(_open(child, folder, question))
        try:
            yield answer
        except (OSError, ValueError):  # what Arrow raises for a stream that was cut; or the caller's own trouble
            child.raise_if_killed()
            raise
        answer.facts = child.report()


def _freshness(facts: Mapping[str, Any]) -> Freshness:
    return Freshness(facts.get("snapshot_age_s"), int(facts.get("pending_segments", 0)))


def _open(child: Reader, root: Path, question: Question) -> Any:
    import pyarrow as pa

    stream = child.ask(root, question)
    try:
        return pa.ipc.open_stream(stream)
    except (pa.ArrowInvalid, OSError):
        child.report()
        raise errors.QueryFailed("the query process ended without an answer") from None


def _report(child: Child) -> dict[str, Any]:
    said = child.stderr.read().decode(errors="replace").strip()
    status = child.wait()
    try:
        report = json.loads(said.splitlines()[-1]) if said else {}
    except ValueError:
        report = {}
    if not report:
        if status is not None and status < 0:
            raise _killed()
        last = said.splitlines()[-1] if said else f"exit status {status}"
        raise errors.QueryFailed(f"the query process failed: {last}")
    if "error" not in report:
        return dict(report)
    kind = getattr(errors, report["error"])
    notes, help_ = list(report["notes"]), report["help"]
    if kind is errors.QueryFailed:
        help_ = help_ or _table_hint(report["message"])
    raise kind(report["message"], notes=notes, help=help_)


def _killed() -> errors.QueryTimeout:
    return errors.QueryTimeout("the query was killed: it ran past its time limit or out of memory")


def _table_hint(message: str) -> str | None:
    found = re.search(r"Table with name (\w+) does not exist", message)
    if not found:
        return None
    known = names()
    close = errors.nearest(found[1], known)
    return (f"did you mean `{close}`? " if close else "") + f"tables and views: {', '.join(known)}"
