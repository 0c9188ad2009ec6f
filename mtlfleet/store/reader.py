"""The child process that answers one query: gives up its rights first, then opens the store, then looks at the query.

Reads one JSON request from standard input, writes an Arrow IPC stream to standard output and one JSON line about how
it went to standard error. Run as ``python -m mtlfleet.store.reader``; nothing here is imported by the parent."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from mtlfleet.errors import FleetError, QueryFailed, QueryTimeout
from mtlfleet.store.landlock import deny_writes


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Answer ``request``; returns what the parent tells the user about freshness."""
    guarded = request["landlock"] and deny_writes(Path(request["scratch"]))
    import duckdb

    from mtlfleet.store.guard import check
    from mtlfleet.store.session import attach_live, lock_down

    check(request["query"])
    con = duckdb.connect(":memory:", config=_limits(request))
    freshness = attach_live(con, Path(request["root"]), use_snapshot=request["use_snapshot"])
    lock_down(con)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        con.interrupt()

    timer = threading.Timer(request["timeout_s"], expire)
    timer.daemon = True
    timer.start()
    try:
        rows = _stream(con, request["query"], request["params"])
    except BrokenPipeError:
        raise
    except (duckdb.Error, OSError) as error:  # Arrow's stream wraps DuckDB's errors in OSError
        if expired.is_set():
            raise QueryTimeout(
                f"the query ran past {request['timeout_s']:g} s", help="narrow it, or give more time with --timeout"
            ) from None
        raise QueryFailed(str(error)) from None
    finally:
        timer.cancel()
    return {
        "rows": rows,
        "snapshot_age_s": freshness.snapshot_age_s,
        "pending_segments": freshness.pending_segments,
        "landlock": guarded,
    }


def _limits(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "memory_limit": request["memory_limit"],
        "threads": request["threads"],
        "temp_directory": request["scratch"],
        "max_temp_directory_size": request["scratch_limit"],
    }


def _stream(con: Any, query: str, params: Any) -> int:
    import pyarrow as pa

    found = con.sql(query, params=params or None)
    reader = found.to_arrow_reader(65_536)
    rows = 0
    with pa.ipc.new_stream(sys.stdout.buffer, reader.schema) as stream:
        for batch in reader:
            stream.write_batch(batch)
            rows += batch.num_rows
    sys.stdout.buffer.flush()
    return rows


def main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    try:
        report = answer(request)
    except FleetError as error:
        report = {
            "error": type(error).__name__,
            "message": error.message,
            "notes": error.notes,
            "help": error.help,
        }
    except BrokenPipeError:
        report = {}
    sys.stderr.write(json.dumps(report) + "\n")
    sys.stderr.flush()
    os._exit(0)  # nothing is left to save, and tearing down DuckDB and Arrow together has been seen to abort


if __name__ == "__main__":
    main()
