"""What a cell costs to launch: `mtlfleet launch` of many trivial cells against a loop of `torchrun`, side by side.

    python benchmarks/launch.py [--cells 200] [--torchrun 3] [--world 1 2] [--json]

A trivial cell builds a small model, takes five steps, evaluates, and writes its segments. Both launchers run the same
trial body. Wall seconds and CPU seconds (user + system of every process the launcher started, sampled from /proc) are
per cell and include the launcher's own start; ratios below one favour mtlfleet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from importlib.metadata import version
from pathlib import Path

from mtlfleet.plan import Study

STUDY = """\
schema: mtlfleet/study/1
study: trivial
methods: {{sum: {{}}}}
datasets: {{synth: {{use: synthetic_regression, params: {{train: 64, val: 16, test: 16, dim: 4}}}}}}
architectures: {{mlp: {{use: hps, params: {{backbone: mlp, width: 8, depth: 1}}}}}}
seeds: {{count: {cells}, base: 1}}
train: {{lr: 0.01, global_batch: 32, steps: 5, eval_every: 5}}
resources: {{workers: {world}}}
"""


class Meter:
    """CPU seconds of every process that carries a mark in its environment, dead ones included as last seen."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.seen: dict[tuple[int, str], float] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "BENCH_MARK": self.mark, "OMP_NUM_THREADS": "1", "MTLFLEET_PROGRESS": "none"}

    def _watch(self) -> None:
        while not self.over.wait(0.1):
            self._look()

    def _look(self) -> None:
        tick = os.sysconf("SC_CLK_TCK")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if self.mark.encode() not in (entry / "environ").read_bytes():
                    continue
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            self.seen[int(entry.name), fields[19]] = (int(fields[11]) + int(fields[12])) / tick

    def run(self, command: list[str]) -> tuple[float, float]:
        """(wall seconds, CPU seconds) of a command."""
        self.thread.start()
        started = time.monotonic()
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        wall = time.monotonic() - started
        self.over.set()
        self.thread.join()
        if done.returncode:
            sys.exit(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}{done.stderr}")
        return wall, sum(self.seen.values())


def fleet(folder: Path, world: int, cells: int) -> tuple[float, float]:
    study = folder / f"trivial-{world}.yaml"
    study.write_text(STUDY.format(world=world, cells=cells))
    command = [sys.executable, "-m", "mtlfleet.cli", "launch", str(study), "--progress", "none"]
    wall, cpu = Meter().run(command)
    return wall / cells, cpu / cells


def torchrun(folder: Path, world: int, cells: int) -> tuple[float, float]:
    study = Study.load(folder / f"trivial-{world}.yaml")
    trials = study.final_trials(dict.fromkeys(study.cells(), 0))[:cells]
    wall = cpu = 0.0
    for trial in trials:
        file = folder / f"{trial.id}.json"
        file.write_text(trial.to_json())
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={world}",
            "-m",
            "mtlfleet.train",
            str(file),
            str(folder / "torchrun"),
            "trivial",
        ]
        spent = Meter().run(command)
        wall, cpu = wall + spent[0], cpu + spent[1]
    return wall / len(trials), cpu / len(trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--torchrun", type=int, default=3, help="cells of the torchrun loop")
    parser.add_argument("--world", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for world in options.world:
            ours = fleet(Path(folder), world, options.cells)
            theirs = torchrun(Path(folder), world, options.torchrun)
            rows.append(
                {
                    "world": world,
                    "cells": options.cells,
                    "wall_s": round(ours[0], 4),
                    "cpu_s": round(ours[1], 4),
                    "torchrun_wall_s": round(theirs[0], 3),
                    "torchrun_cpu_s": round(theirs[1], 3),
                    "wall_ratio": round(ours[0] / theirs[0], 4),
                    "cpu_ratio": round(ours[1] / theirs[1], 4),
                }
            )
    facts = {name: version(name) for name in ("mtlfleet", "ray", "torch")}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if options.json:
        print(
            json.dumps(
                {"schema": "mtlfleet/bench-launch/1", "machine": machine, "versions": facts, "rows": rows}, indent=2
            )
        )
        return
    print(f"{machine}; {', '.join(f'{k} {v}' for k, v in facts.items())}\n")
    print("| W | cells | wall s/cell | CPU s/cell | torchrun wall | torchrun CPU | wall ratio | CPU ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['world']} | {r['cells']} | {r['wall_s']} | {r['cpu_s']} | {r['torchrun_wall_s']} "
            f"| {r['torchrun_cpu_s']} | **{r['wall_ratio']}** | **{r['cpu_ratio']}** |"
        )


if __name__ == "__main__":
    main()
