"""The results store beside the plainest way to do the same thing: ratios, measured side by side in one run.

    python benchmarks/store.py [--rows 10000000] [--trials 300] [--repeats 3] [--only PART ...] [--json] [--folder DIR]

Every figure is CPU time (user and system, all threads and children); the smallest of the repeats, which alternate. L2,
the limit for ingestion, is `CREATE TABLE AS` from the same Parquet files into memory. Parts: `writer`; `bulk`, which
ingests, publishes and asks; `small` segments; and `together`, one run in which a process writes the segments of all
trials while another ingests and publishes and this one keeps asking. Prints the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from mtlfleet.store import AttemptWriter, Ingester, Store, durable, ingest, stamp, workfile, write_document
from mtlfleet.store.attempts import claim_attempt, end_attempt
from mtlfleet.store.layout import Segment, list_segments
from mtlfleet.store.schema import SEGMENT_TABLES

SCHEMA = SEGMENT_TABLES["metrics"].arrow
TASKS = [f"task{n}" for n in range(10)]
METRICS = [f"metric{n}" for n in range(5)]
LAST = "SELECT trial_id, task, metric, arg_max(value, step) AS last FROM {table} GROUP BY ALL"


@dataclass
class Ratio:
    """One line of the table: what was measured against what, and what was asked for."""

    what: str
    value: float
    goal: str
    met: bool
    detail: str


def cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def least(repeats: int, **ways: Callable[[], object]) -> dict[str, float]:
    """Way -> smallest CPU seconds; the ways take turns."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            before = cpu()
            way()
            found[name] = min(found[name], cpu() - before)
    return found


def rows_of(trial: str, start: int, count: int) -> pa.Table:
    """``count`` rows of a trial from row ``start`` on: 50 values a step, noise that was born as float32."""
    at = np.arange(start, start + count)
    step = at // 50 + 1
    noise = np.random.default_rng([start, int(trial[1:])]).normal(size=count).astype(np.float32)

    def named(names: list[str], index: np.ndarray[Any, Any]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(index, pa.int32()), pa.array(names)).cast(pa.string())

    arrays = [
        pa.repeat("bench", count), pa.repeat(trial, count), pa.repeat(pa.scalar(1, pa.int32()), count),
        pa.array(step), pa.array(step / 100.0), named(["val", "test"], at // 25 % 2), named(TASKS, at // 5 % 10),
        named(METRICS, at % 5), pa.array(noise.astype(np.float64)), pa.repeat(pa.scalar(1000), count),
        pa.repeat(False, count), pa.array(at * 1000 + 1_700_000_000_000_000, pa.timestamp("us", tz="UTC")),
    ]  # fmt: skip
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


PARTS = ("writer", "bulk", "small", "together")


def names(trials: int) -> list[str]:
    return [f"t{n:05d}" for n in range(trials)]


def write(root: Path, trials: int, rows: int, size: int, first_part: int = 1) -> None:
    """Segments of ``size`` rows for every trial, stamped and renamed as the writer does."""
    for trial in names(trials):
        if first_part == 1:
            claim_attempt(root, "bench", trial, {"restored_step": 0, "started_at": "2026-01-01T00:00:00+00:00"})
        for part, start in enumerate(range(0, rows // trials, size), first_part):
            content = rows_of(trial, start, min(size, rows // trials - start))
            path = root / Segment("bench", trial, 1, "metrics", part).path
            durable.make_folder(path.parent)
            path.write_bytes(stamp.encode(content, {"mtlfleet_schema_version": "1"}))


def finish(root: Path, trials: int) -> None:
    """What the leaderboard needs: the plan, definitions, final rows, and that every trial is done."""
    plan = [
        {
            "trial_id": t, "phase": "final", "method": f"m{n % 10}", "method_use": "linear", "dataset": "d",
            "architecture": "a", "task": "*", "tasks": TASKS, "seed": n // 10, "config_index": 0, "world_size": 1,
        }
        for n, t in enumerate(names(trials))
    ]  # fmt: skip
    write_document(root, "bench", "studies", [{"title": "bench"}])
    write_document(root, "bench", "trials", plan)
    defs = [{"metric": m, "unit": "1", "direction": "max", "scale": "interval", "best": 1.0} for m in METRICS]
    write_document(root, "bench", "metric_defs", defs)
    for trial in names(trials):
        content = rows_of(trial, 10**9, 50)
        content = content.set_column(10, SCHEMA.field(10), pa.repeat(True, 50))
        path = root / Segment("bench", trial, 1, "metrics", 900_000).path
        path.write_bytes(stamp.encode(content, {"mtlfleet_schema_version": "1"}))
        end_attempt(root, "bench", trial, 1, state="done", last_step=1)


def paths(root: Path) -> str:
    return "[" + ", ".join(f"'{root / s.path}'" for s in list_segments(root)) + "]"


def into_memory(root: Path) -> None:
    with duckdb.connect(":memory:", config={"threads": 2}) as con:
        con.execute("SET enable_progress_bar = false")
        con.execute(f"CREATE TABLE m AS SELECT * FROM read_parquet({paths(root)}, hive_partitioning = false)")


def plain(root: Path, file: Path, threads: int = 2) -> None:
    """INSERT SELECT into a file, checkpointed: no ledger, no verification, no names."""
    file.unlink(missing_ok=True)
    with workfile.connect(file) as con:
        con.execute(f"SET threads = {threads}")
        con.execute(SEGMENT_TABLES["metrics"].ddl())
        con.execute(f"INSERT INTO metrics_all SELECT * FROM read_parquet({paths(root)}, hive_partitioning = false)")
        con.execute("CHECKPOINT")


def ours(root: Path) -> None:
    """From a store without rows: everything folded in, checkpointed; not published."""
    for old in root.glob(".work-*"):
        old.unlink()
    (root / "results.duckdb").unlink(missing_ok=True)
    work, empty = workfile.path_in(root), root.parent / "empty"
    shutil.copyfile(workfile.path_in(empty), work)
    with Ingester(root) as ingester:
        ingester._due = float("inf")
        ingester.run_once()
        ingester._con.execute("CHECKPOINT")


def opening(folder: Path) -> str:
    """Make the store without rows; says what that costs."""
    before = cpu()
    with Ingester(folder / "empty"):
        pass
    return f"an empty store was made before, {(cpu() - before) * 1e3:.0f} ms"


def ingestion(folder: Path, rows: int, trials: int, repeats: int) -> Iterator[Ratio]:
    root = folder / "bulk"
    write(root, trials, rows, 50_000)
    made = opening(folder)
    finish(root, trials)  # a trial's final rows lie among the others, as they do in a study
    found = least(
        repeats, memory=lambda: into_memory(root), plain=lambda: plain(root, folder / "plain.duckdb"),
        ours=lambda: ours(root),
    )  # fmt: skip
    speed = {name: f"{rows / s / 1e6:.2f}" for name, s in found.items()}
    said = "{} and {} M rows per CPU s"
    yield at_least(
        "bulk ingest with ledger / L2",
        found["memory"] / found["ours"],
        0.4,
        f"{said.format(speed['ours'], speed['memory'])}; {made}",
    )
    yield at_least(
        "bulk ingest with ledger / plain INSERT SELECT", found["plain"] / found["ours"], 0.95,
        said.format(speed["ours"], speed["plain"]),
    )  # fmt: skip
    size = workfile.path_in(root).stat().st_size
    other = (folder / "plain.duckdb").stat().st_size
    yield at_most("size of the file / plain table's file", size / other, 1.1, f"{size / rows:.2f} B a row")
    duckdb.execute(
        f"COPY (FROM read_parquet({paths(root)}, hive_partitioning = false)) TO '{folder / 'one.parquet'}'"
        " (COMPRESSION zstd)"
    )
    segments = sum((root / s.path).stat().st_size for s in list_segments(root))
    one = (folder / "one.parquet").stat().st_size
    yield at_most("size of the segments / one zstd Parquet file", segments / one, 1.5, f"{segments / rows:.2f} B a row")


def small(folder: Path, repeats: int) -> Iterator[Ratio]:
    """1e6 rows in segments of 500, against the same rows in one file read into memory."""
    root, rows = folder / "small", 1_000_000
    write(root, 100, rows, 500)
    one = folder / "small.parquet"
    duckdb.execute(f"COPY (FROM read_parquet({paths(root)}, hive_partitioning = false)) TO '{one}' (COMPRESSION zstd)")

    def limit() -> None:
        with duckdb.connect(":memory:", config={"threads": 2}) as con:
            con.execute(f"CREATE TABLE m AS SELECT * FROM '{one}'")

    opening(folder)
    found = least(
        repeats, limit=limit, plain=lambda: plain(root, folder / "small.duckdb", threads=1), ours=lambda: ours(root)
    )
    ratio = found["limit"] / found["plain"]
    said = f"{rows / found['ours'] / 1e6:.2f} and {rows / found['limit'] / 1e6:.2f} M rows per CPU s; DuckDB's plain"
    said += f" INSERT SELECT of the same files, one thread: {ratio:.3f}"
    yield at_least("500-row segments / L2 of one file", found["limit"] / found["ours"], 0.2, said)


def writer(folder: Path, repeats: int) -> Iterator[Ratio]:
    def append(rows: int) -> None:
        log = AttemptWriter.claim(
            folder / "writer", "bench", "t00000", restored_step=0, restored_checkpoint=None, world_size=1
        )
        for step in range(1, rows + 1):
            log.step_metric(step, "task", "loss", 0.5 * step)
        log.close("done")

    append(10)
    for rows in (50_000, 5_000):
        found = least(repeats, ours=partial(append, rows))["ours"] / rows * 1e6
        detail = "append, encode, stamp, fsync, claim and end"
        yield at_most(f"writer, us of CPU a row, {rows} rows a segment", found, 5.0, detail)


def publishing(folder: Path, repeats: int) -> Iterator[Ratio]:
    root = folder / "bulk"
    work, target = workfile.path_in(root), folder / "copied.duckdb"

    def cp() -> None:
        subprocess.run(["cp", str(work), str(target)], check=True)
        with target.open("rb") as handle:
            os.fsync(handle.fileno())

    with Ingester(root) as ingester:

        def checkpoint() -> None:
            workfile.set_meta(ingester._con, published_at=time.monotonic())
            ingester._con.execute("CHECKPOINT")

        ingester.publish()
        found = least(repeats + 2, cp=cp, checkpoint=checkpoint, ours=ingester.publish)
    ms = {name: s * 1e3 for name, s in found.items()}
    detail = f"{work.stat().st_size / 1e6:.0f} MB: {ms['ours']:.0f} ms and {ms['cp']:.0f} ms"
    yield at_most("publish / cp and fsync", ms["ours"] / ms["cp"], 1.3, detail)
    detail = f"the checkpoint that ingestion ends with takes {ms['checkpoint']:.0f} ms"
    yield at_most("publish / (checkpoint, cp and fsync)", ms["ours"] / (ms["cp"] + ms["checkpoint"]), 1.3, detail)


def queries(folder: Path, trials: int, repeats: int) -> Iterator[Ratio]:
    root = folder / "bulk"
    file = root / "results.duckdb"
    raw = duckdb.connect(str(file), read_only=True)
    query, store = LAST.format(table="metrics"), Store(root)

    def cold() -> None:
        with duckdb.connect(":memory:") as con:
            con.execute(f"ATTACH '{file}' AS s (READ_ONLY)")
            con.execute(LAST.format(table="s.metrics_all")).fetchall()

    def warm() -> None:
        raw.execute(LAST.format(table="metrics_all")).fetchall()

    found = least(
        repeats + 2, raw=warm,
        view=lambda: raw.execute(query).fetchall(), board=lambda: raw.execute("FROM leaderboard").fetchall(),
        current=lambda: store.sql(query), cold=cold,
    )  # fmt: skip
    ms = {name: s * 1e3 for name, s in found.items()}
    opened = f"the raw table's session was open; with one opened for it DuckDB alone takes {ms['cold'] / ms['raw']:.2f}"
    yield at_most("view of the rows that count / raw table", found["view"] / found["raw"], 1.5, f"{ms['view']:.0f} ms")
    yield at_most("live query, nothing pending / raw table", found["current"] / found["raw"], 1.5, opened)
    yield at_most("leaderboard, ms of CPU", ms["board"], 100.0, "the view as shipped")
    pending = 0
    for trial in names(min(trials, 100)):
        path = root / Segment("bench", trial, 1, "metrics", 900_001).path
        path.write_bytes(stamp.encode(rows_of(trial, 2 * 10**9, 500), {"mtlfleet_schema_version": "1"}))
        pending += 1
    ms = {name: s * 1e3 for name, s in least(repeats + 2, raw=warm, live=lambda: store.sql(query)).items()}
    raw.close()
    allowed = 1.5 * ms["raw"] + 0.2 * pending
    detail = f"{ms['live']:.0f} ms; raw {ms['raw']:.0f} ms, {pending} pending files"
    yield at_most("live query / (1.5 x raw + 0.2 ms a pending file)", ms["live"] / allowed, 1.0, detail)
    yield from command(root, repeats)


def command(root: Path, repeats: int) -> Iterator[Ratio]:
    """The command line's hot path, whose floor is Python, DuckDB and the file; both find compiled bytecode, as after an
    installation."""
    file = root / "results.duckdb"
    code = f"import duckdb; duckdb.connect({str(file)!r}, read_only=True).execute('SELECT 1').fetchall()"

    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env = {**kept, "PYTHONPYCACHEPREFIX": str(root.parent / "bytecode")}

    def asked(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True, env=env)

    with Ingester(root) as ingester:
        ingester.run_once()
        ingester.publish()
    sql = asked("-m", "mtlfleet.cli", "sql", str(root), "SELECT 1")
    found = least(repeats + 6, floor=asked("-c", code), sql=sql)  # the first turn compiles and is never the least
    detail = f"{found['sql'] * 1e3:.0f} and {found['floor'] * 1e3:.0f} ms"
    yield at_most("mtlfleet sql / (python, import duckdb, open)", found["sql"] / found["floor"], 1.3, detail)


def _produce(root: str, trials: int, rows: int) -> None:
    """Ten rounds over all trials, as if they ran beside one another."""
    for turn in range(10):
        write(Path(root), trials, rows // 10, 10**9, first_part=turn + 1)


def _fold(root: str, stop: Any, out: Any) -> None:
    ingest.PUBLISH_S = 1.0
    published = 0
    with Ingester(root) as ingester:
        while not stop.is_set():
            before = ingester._due
            ingester.run_once()
            published += ingester._due != before
            time.sleep(0.2)
        ingester.run_once()
        ingester.publish()
    out.put((published + 1, cpu(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def together(folder: Path, rows: int, trials: int) -> dict[str, Any]:
    """Writers, ingester and a reader at once; the reader's counts may only grow and must end complete."""
    root = folder / "together"
    context = multiprocessing.get_context("spawn")
    stop, out = context.Event(), context.Queue()
    started = time.monotonic()
    producer = context.Process(target=_produce, args=(str(root), trials, rows))
    folder_ = context.Process(target=_fold, args=(str(root), stop, out))
    producer.start()
    while not list_segments(root):
        time.sleep(0.05)
    folder_.start()
    seen, polls, backwards = 0, 0, 0
    question = "SELECT count(*) AS n, count(DISTINCT trial_id) AS t FROM metrics"
    while producer.is_alive():
        count = Store(root).rows(question)[0]["n"]
        backwards += count < seen
        seen, polls = count, polls + 1
        time.sleep(0.2)
    producer.join()
    written = time.monotonic() - started
    stop.set()
    published, spent, peak = out.get(timeout=600)
    folder_.join()
    ended = Store(root).rows(question)[0]
    expected = rows // 10 // trials * trials * 10
    return {
        "rows": f"{ended['n']:,} of {expected:,}".replace(",", " "), "trials": ended["t"],
        "segments": len(list_segments(root)), "reader polls": polls, "polls that lost rows": backwards,
        "publications": published, "written after": f"{written:.0f} s",
        "all published after": f"{time.monotonic() - started:.0f} s", "ingester CPU": f"{spent:.1f} s",
        "its peak memory": f"{peak:.0f} MB",
    }  # fmt: skip


def at_least(what: str, value: float, goal: float, detail: str) -> Ratio:
    return Ratio(what, round(value, 3), f">= {goal:g}", value >= goal, detail)


def at_most(what: str, value: float, goal: float, detail: str) -> Ratio:
    return Ratio(what, round(value, 3), f"<= {goal:g}", value <= goal, detail)


@contextmanager
def place(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True)
        yield given
        return
    folder = tempfile.mkdtemp(prefix="mtlfleet-bench-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder)


def measured(folder: Path, options: argparse.Namespace) -> Iterator[Ratio]:
    """The lines of the first table, as they come."""
    if "writer" in options.only:
        yield from writer(folder, options.repeats)
    if "bulk" in options.only:
        yield from ingestion(folder, options.rows, options.trials, options.repeats)
        yield from publishing(folder, options.repeats)
        yield from queries(folder, options.trials, options.repeats)
    if "small" in options.only:
        yield from small(folder, options.repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, help="a new folder to work in; it is kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    duckdb.execute("SET enable_progress_bar = false")
    ratios: list[Ratio] = []
    with place(options.folder) as folder:
        for ratio in measured(folder, options):
            ratios.append(ratio)
            print(f"{ratio.what}: {ratio.value} ({ratio.goal}) {ratio.detail}", file=sys.stderr, flush=True)
        run = together(folder, options.rows, options.trials) if "together" in options.only else {}
    load = ", ".join(f"{x:.0f}" for x in os.getloadavg())
    machine = (
        f"{options.rows} rows of {options.trials} trials. {os.cpu_count()} CPUs {platform.machine()}, load average"
        f" {load}, Python {platform.python_version()}, DuckDB {duckdb.__version__}, pyarrow {pa.__version__}, "
        f"{datetime.now(UTC):%-d %B %Y}."
    )
    if options.json:
        report = {"schema": "mtlfleet/bench-store/1", "machine": machine, "ratios": [asdict(r) for r in ratios]}
        print(json.dumps({**report, "together": run}, indent=1))
        return
    print("| what | measured | goal | met | detail |\n|---|---|---|---|---|")
    for r in ratios:
        print(f"| {r.what} | **{r.value:g}** | {r.goal} | {'yes' if r.met else 'no'} | {r.detail} |")
    if run:
        print(f"\n| {' | '.join(run)} |\n|{'---|' * len(run)}\n| {' | '.join(map(str, run.values()))} |")
    print(f"\n{machine}")


if __name__ == "__main__":
    main()
