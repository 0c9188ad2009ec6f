"""Ask a store in a guarded child process: it may read this store and nothing else, within limits of time and memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from mtlfleet import errors
from mtlfleet.store.freshness import Freshness

CANNED: Mapping[str, str] = {
    "leaderboard": (
        "SELECT dataset, architecture, task, metric, rank, method, n_seeds, n_trials, mean, ci95, n_failed, n_diverged"
        " FROM leaderboard ORDER BY dataset, architecture, task, metric, rank NULLS LAST, method"
    ),
    "progress": "SELECT * EXCLUDE (study_id) FROM progress ORDER BY phase, method, dataset, architecture",
    "verdicts": (
        "SELECT claim_id, verdict, label, effect, ci_low, ci_high, unit, p_adjusted, n_pairs, sentence"
        " FROM verdicts ORDER BY claim_id"
    ),
    "failures": (
        "SELECT state, exit_reason, count(*) AS trials, min(label) AS example, min(trial_id) AS trial_id"
        " FROM trial_summary WHERE state NOT IN ('done', 'running', 'missing')"
        " GROUP BY ALL ORDER BY trials DESC, state, exit_reason"
    ),
}
_GRACE_S = 5.0


def canned(query: str) -> str:
    """The SQL of ``@name``, or ``query`` itself. Raises UnknownName with the nearest name."""
    if not query.startswith("@"):
        return query
    name = query[1:].strip()
    if name not in CANNED:
        close = errors.nearest(name, CANNED)
        raise errors.UsageError(
            f"no query is called `@{name}`",
            notes=[f"known: {', '.join('@' + n for n in CANNED)}"],
            help=f"did you mean `@{close}`?" if close else None,
        )
    return CANNED[name]


def names() -> list[str]:
    """The tables and views a query may name."""
    from mtlfleet.store.schema import ALL_TABLES

    views = re.findall(r"CREATE OR REPLACE VIEW (\w+)", files("mtlfleet.store").joinpath("views.sql").read_text())
    return sorted({*views, *(t.name for t in ALL_TABLES)})


@dataclass
class Answer:
    """An answer being read: ``reader`` is a ``pyarrow.RecordBatchReader``; ``freshness`` is known after the last
    batch."""

    reader: Any
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def freshness(self) -> Freshness:
        return Freshness(self.facts.get("snapshot_age_s"), int(self.facts.get("pending_segments", 0)))


@contextmanager
def guarded(
    root: Path,
    query: str,
    *,
    params: Mapping[str, Any] | None = None,
    timeout_s: float = 60.0,
    use_snapshot: bool = True,
    landlock: bool = True,
) -> Iterator[Answer]:
    """Run ``query`` in the guarded child and give its answer as a stream.

    Raises QueryRefused, QueryFailed, QueryTimeout, StoreDamaged. An error after the first batch is raised when the
    block ends, so write to a temporary file and keep it only after that."""
    scratch = tempfile.mkdtemp(prefix="mtlfleet-sql-")
    request = {
        "root": str(root),
        "query": query,
        "params": dict(params or {}),
        "timeout_s": timeout_s,
        "use_snapshot": use_snapshot,
        "landlock": landlock,
        "scratch": scratch,
        "memory_limit": f"{_memory_mib()}MiB",
        "scratch_limit": "16GiB",
        "threads": os.cpu_count() or 1,
    }
    child = _start(request)
    watchdog = threading.Timer(timeout_s + _GRACE_S, child.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        answer = Answer(_open(child))
        try:
            yield answer
        except (OSError, ValueError):  # what Arrow raises for a stream that was cut; or the caller's own trouble
            _raise_if_killed(child)
            raise
        answer.facts = _report(child)
    finally:
        watchdog.cancel()
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _raise_if_killed(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(0.5)
    except subprocess.TimeoutExpired:
        return
    if child.returncode < 0:
        raise errors.QueryTimeout("the query was killed: it ran past its time limit or out of memory") from None


def _start(request: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """The child, with no more of the environment than Python needs: a query can then leak nothing of it."""
    import mtlfleet

    keep = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment["PYTHONPATH"] = str(Path(next(iter(mtlfleet.__path__))).parent)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "mtlfleet.store.reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(request).encode())
    child.stdin.close()
    return child


def _open(child: subprocess.Popen[bytes]) -> Any:
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(child.stdout)
    except (pa.ArrowInvalid, OSError):
        _report(child)
        raise errors.QueryFailed("the query process ended without an answer") from None


def _report(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the child said about itself. Raises the error it reported."""
    assert child.stderr is not None
    said = child.stderr.read().decode(errors="replace").strip()
    child.wait()
    try:
        report = json.loads(said.splitlines()[-1]) if said else {}
    except ValueError:
        report = {}
    if not report:
        if child.returncode and child.returncode < 0:
            raise errors.QueryTimeout("the query was killed: it ran past its time limit or out of memory")
        last = said.splitlines()[-1] if said else f"exit status {child.returncode}"
        raise errors.QueryFailed(f"the query process failed: {last}")
    if "error" not in report:
        return dict(report)
    kind = getattr(errors, report["error"])
    notes, help_ = list(report["notes"]), report["help"]
    if kind is errors.QueryFailed:
        help_ = help_ or _table_hint(report["message"])
    raise kind(report["message"], notes=notes, help=help_)


def _table_hint(message: str) -> str | None:
    found = re.search(r"Table with name (\w+) does not exist", message)
    if not found:
        return None
    known = names()
    close = errors.nearest(found[1], known)
    return (f"did you mean `{close}`? " if close else "") + f"tables and views: {', '.join(known)}"


def _memory_mib() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(256, min(8192, total // 2 // 2**20))
