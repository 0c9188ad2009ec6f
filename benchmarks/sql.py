"""What asking costs: `mtlfleet sql` against plain DuckDB with the same query on the same published file, side by side.

    python benchmarks/sql.py [--trials 100] [--steps 5000] [--repeat 7] [--json]

CPU seconds (user + system, children included), the smallest of the repeats, which take turns. Plain DuckDB is
`python -c "import duckdb; duckdb.connect(file, read_only=True).sql(query).fetchall()"`: no check of the query, no
guard, no time limit, and none of what was flushed since the file was published. Both find compiled bytecode, as after
an installation: kept in a temporary folder, whatever the environment says of it, by a first run that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from mtlfleet.store import AttemptWriter, Ingester, write_document
from mtlfleet.store.canned import CANNED

PLAIN = """
import sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=True)
for row in con.sql(sys.argv[2]).fetchall(): print(*row, sep=",")
"""
QUERIES = {
    "count": "SELECT count(*) AS n FROM trials",
    "aggregate": "SELECT trial_id, task, avg(value) AS mean FROM step_metrics WHERE isfinite(value) GROUP BY ALL",
    "leaderboard": CANNED["leaderboard"].sql,
}
TASKS = ("a", "b")


def build(root: Path, trials: int, steps: int) -> int:
    """A finished study; returns its rows."""
    methods = max(1, trials // 5)
    rows = [
        {"trial_id": f"t{i:05d}", "phase": "final", "method": f"m{i % methods}", "method_use": "linear", "dataset": "d",
         "architecture": "hps", "task": "*", "tasks": list(TASKS), "seed": i // methods, "config_index": 0,
         "label": f"m{i % methods}/d/s{i // methods}", "params": {}, "config": {}, "config_sha256": f"{i:064d}",
         "world_size": 1, "steps": steps}
        for i in range(trials)
    ]  # fmt: skip
    write_document(root, "s", "studies", [{"title": "a study", "spec": {}, "spec_sha256": "1"}])
    write_document(root, "s", "trials", rows)
    write_document(
        root, "s", "metric_defs",
        [{"metric": "error", "unit": "fraction", "direction": "min", "scale": "ratio", "best": 0.0}],
    )  # fmt: skip
    for i, row in enumerate(rows):
        writer = AttemptWriter.claim(
            root, "s", row["trial_id"], restored_step=0, restored_checkpoint=None, world_size=1
        )
        for step in range(1, steps + 1):
            for task in TASKS:
                writer.step_metric(step, task, "loss", 1.0 / (step + i))
        for task in TASKS:
            writer.metric(steps, 1.0, "test", task, "error", 0.1 + (i % 17) / 100, 100, True)
        writer.close("done", "", steps)
    with Ingester(root) as ingester:
        ingester.run_once()
    return trials * (steps + 1) * len(TASKS)


def compiled(folder: str) -> dict[str, str]:
    """An environment in which Python keeps its bytecode in ``folder``."""
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**plain, "PYTHONPYCACHEPREFIX": folder}


def cpu(words: list[str], env: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="mtlfleet-bench-") as folder:
        root = Path(folder) / "store"
        env = compiled(f"{folder}/bytecode")
        rows = build(root, asked.trials, asked.steps)
        snapshot = str(root / "results.duckdb")
        for name, query in QUERIES.items():
            ask = [sys.executable, "-m", "mtlfleet.cli", "sql", str(root), query, "--format", "csv"]
            ways = {
                "duckdb": [sys.executable, "-c", PLAIN, snapshot, query],
                "live": ask,
                "snapshot": [*ask, "--snapshot"],
            }
            least = dict.fromkeys(ways, float("inf"))
            for turn in range(asked.repeat + 1):
                for way, words in ways.items():
                    took = cpu(words, env)
                    least[way] = min(least[way], took) if turn else least[way]
            results.append({"query": name, **{f"{w}_cpu_s": round(s, 3) for w, s in least.items()},
                            "live_ratio": round(least["live"] / least["duckdb"], 2),
                            "snapshot_ratio": round(least["snapshot"] / least["duckdb"], 2)})  # fmt: skip
    if asked.json:
        print(json.dumps({"schema": "mtlfleet/bench-sql/1", "rows": rows, "results": results}, indent=1))
        return
    print("| query | plain DuckDB | live | ratio | `--snapshot` | ratio |\n|---|---|---|---|---|---|")
    for r in results:
        print(
            f"| {r['query']} | {r['duckdb_cpu_s']} | {r['live_cpu_s']} | {r['live_ratio']} | {r['snapshot_cpu_s']}"
            f" | {r['snapshot_ratio']} |"
        )
    load = ", ".join(f"{x:.0f}" for x in os.getloadavg())
    print(f"\n{rows} rows of {asked.trials} trials, CPU seconds, least of {asked.repeat}, load average {load}.")


if __name__ == "__main__":
    main()
