"""The child process that answers one query: gives up its rights first, then loads DuckDB, then hears what is asked.

Run as ``python -m mtlfleet.store.reader SCRATCH LANDLOCK MEMORY PARENT``, or in a fork (see ``child``). Reads one JSON
request from standard input, writes the answer to standard output in the form asked for and one JSON line about how it
went to standard error. It can be started before the question is known. What loads DuckDB or Arrow is imported only
after the rights are given up.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import IO, Any, NoReturn

from mtlfleet.errors import FleetError, QueryFailed, QueryRefused, QueryTimeout
from mtlfleet.store import limits
from mtlfleet.store.landlock import deny_writes


def prepare(scratch: Path, *, landlock: bool, memory: int, parent: int) -> bool:
    """Bind this process, then load DuckDB: threads started before would keep the right to write. Returns whether the
    kernel now refuses writes."""
    limits.bind(memory, parent)
    denied = landlock and deny_writes(scratch)
    import duckdb  # noqa: F401

    return denied


def answer(request: dict[str, Any], out: IO[bytes], scratch: Path, *, denied: bool, memory: int) -> dict[str, Any]:
    """Answer ``request`` on ``out``; returns what the parent tells the user about freshness."""
    import duckdb

    from mtlfleet.store.guard import check
    from mtlfleet.store.session import attach, lock_down

    query = request["query"]
    con = duckdb.connect(":memory:", config=_limits(scratch, memory))
    con.execute("SET enable_progress_bar = false")
    check(query, con, kernel=denied)
    freshness = attach(con, Path(request["root"]), request["source"], query)
    lock_down(con)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        con.interrupt()

    timer = threading.Timer(request["timeout_s"], expire)
    timer.daemon = True
    timer.start()
    try:
        rows = _write(con, request, out)
    except BrokenPipeError:
        raise
    except (duckdb.Error, OSError, MemoryError) as error:  # Arrow's stream wraps DuckDB's errors in OSError
        if expired.is_set():
            raise QueryTimeout(
                f"the query ran past {request['timeout_s']:g} s", help="narrow it, or give more time with --timeout"
            ) from None
        raise _failure(error, memory) from None
    finally:
        timer.cancel()
    return {
        "rows": rows,
        "snapshot_age_s": freshness.snapshot_age_s,
        "pending_segments": freshness.pending_segments,
        "landlock": denied,
    }


def _failure(error: BaseException, memory: int) -> FleetError:
    """DuckDB's words, and what to do where the words are about a wall of ours."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or "Out of Memory" in text or "failed to allocate" in text.lower():
        first = text.splitlines()[0]
        return QueryFailed(
            f"the query needs more than its {memory // limits.MIB} MiB of memory: {first}",
            help="aggregate first, or narrow it with WHERE",
        )
    if "disabled by configuration" in text:
        return QueryRefused(text.splitlines()[0], notes=["a query reads this store and nothing else"])
    return QueryFailed(text)


def _limits(scratch: Path, memory: int) -> dict[str, Any]:
    return {
        "memory_limit": f"{memory // limits.MIB}MiB",
        "threads": os.cpu_count() or 1,
        "temp_directory": str(scratch),
        "max_temp_directory_size": f"{limits.scratch_bytes(scratch) // limits.MIB}MiB",
    }


_PLAIN = re.compile(r"(TINY|SMALL|BIG|U\w*)?INT(EGER)?|DOUBLE|FLOAT|VARCHAR|JSON|BOOLEAN|(VARCHAR|DOUBLE|FLOAT)\[\]")


def _write(con: Any, request: dict[str, Any], out: IO[bytes]) -> int:
    """Plain columns go to text without Arrow, whose import costs as much as DuckDB's; both ways write the same."""
    from mtlfleet.store.formats import BINARY, write, write_rows

    found = con.execute(request["query"], request["params"] or None)
    form, columns = request["form"], found.description or []
    if form not in BINARY and all(_PLAIN.fullmatch(str(column[1])) for column in columns):
        rows = (row for many in iter(lambda: found.fetchmany(10_000), []) for row in many)
        count = write_rows(form, [column[0] for column in columns], rows, out, request["limit"])
    else:
        count = write(form, found.to_arrow_reader(65_536), out, limit=request["limit"])
    out.flush()
    return count


def serve(scratch: Path, *, landlock: bool, memory: int, parent: int) -> NoReturn:
    """Hear one question, answer it, end this process."""
    out = _answering()
    try:
        denied = prepare(scratch, landlock=landlock, memory=memory, parent=parent)
        with open(0, "rb", closefd=False) as question:
            asked = question.read()
        if not asked:
            os._exit(0)  # started ahead of a question that never came
        report = answer(json.loads(asked), out, scratch, denied=denied, memory=memory)
    except FleetError as error:
        report = {
            "error": type(error).__name__,
            "message": error.message,
            "notes": error.notes,
            "help": error.help,
        }
    except BrokenPipeError:
        report = {}
    os.write(2, f"{json.dumps(report)}\n".encode())
    os._exit(0)  # nothing is left to save, and tearing down DuckDB and Arrow together has been seen to abort


def _answering() -> IO[bytes]:
    """Where the answer goes. What a library prints to standard output, such as a progress bar, goes nowhere."""
    out = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return out


if __name__ == "__main__":
    serve(Path(sys.argv[1]), landlock=sys.argv[2] == "1", memory=int(sys.argv[3]), parent=int(sys.argv[4]))
