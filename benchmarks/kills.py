"""Kill equivalence: SIGKILL whatever runs a study at random moments; its results must not show it.

    python benchmarks/kills.py [--kills 20] [--seed 0] [--keep FOLDER] [--json]

An undisturbed run of a small two-rank study gives the reference `mtlfleet digest`. Then, again and again: a fresh
store, a launch, a SIGKILL of a rank, of the gang's owner or of the driver at a random moment, a launch to the end,
and a digest. A digest covers every trial, metric row, step row and gradient row that counts, without times, hosts and
attempt numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

STUDY = """\
schema: mtlfleet/study/1
study: kills
methods: {stl: {}, ls: {use: linear, space: {weights: {simplex: {tasks: 2, points: 3}}}}, pcgrad: {}, uw: {}}
datasets: {synth: {use: synthetic_regression, params: {train: 512, val: 64, test: 64, dim: 8}}}
architectures: {mlp: {use: hps, params: {backbone: mlp, width: 16, dropout: 0.1}}}
seeds: [1, 2]
train: {lr: 0.01, global_batch: 32, steps: 120, eval_every: 30, checkpoint_every: 20, log_every: 10}
search: {space: {train.lr: {log_uniform: [1e-3, 1e-2]}}, trials_per_method: 2, seeds: [901]}
resources: {workers: 2}
"""

TARGETS = ("rank", "owner", "driver")


def launch(study: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mtlfleet.cli", "launch", str(study), "--progress", "plain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def digest(study: Path) -> str:
    command = [sys.executable, "-m", "mtlfleet.cli", "digest", str(study)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, title) of everything on this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            yield int(entry.name), parent, title


def below(driver: int) -> list[tuple[int, str]]:
    """Every descendant of the driver."""
    found = list(processes())
    children: dict[int, list[tuple[int, str]]] = {}
    for pid, parent, title in found:
        children.setdefault(parent, []).append((pid, title))
    wanted, stack = [], [driver]
    while stack:
        for pid, title in children.get(stack.pop(), []):
            wanted.append((pid, title))
            stack.append(pid)
    return wanted


def victims(driver: int, target: str) -> list[int]:
    if target == "driver":
        return [driver]
    word = "ray::Rank" if target == "rank" else "ray::Gang"
    return sorted(pid for pid, title in below(driver) if title.startswith(word))


def finish(study: Path, attempts: int = 3) -> None:
    """Launch until it says done."""
    for _ in range(attempts):
        running = launch(study)
        said, _ = running.communicate(timeout=600)
        if running.returncode == 0:
            return
    sys.exit(f"the study did not finish in {attempts} launches; the last said:\n{said}")


def disturbed(study: Path, target: str, after: float, drawn: random.Random) -> tuple[bool, str, float]:
    """One run with one kill; (whether something was killed, digest, seconds until the launch ended)."""
    running = launch(study)
    started = time.monotonic()
    killed = False
    while running.poll() is None and not killed:
        time.sleep(0.02)
        training = bool(victims(running.pid, "rank"))
        if training and time.monotonic() - started > after:
            chosen = victims(running.pid, target)
            if chosen:
                os.kill(drawn.choice(chosen), signal.SIGKILL)
                killed = True
    running.communicate(timeout=600)
    lasted = time.monotonic() - started
    finish(study)
    return killed, digest(study), lasted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the stores here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    drawn = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        rows, reference, span = run(folder, options.kills, drawn)
    counts = Counter(row["target"] for row in rows if row["killed"])
    bad = sum(row["digest"] != reference for row in rows)
    if options.json:
        print(
            json.dumps(
                {"schema": "mtlfleet/bench-kills/1", "reference": reference, "mismatches": bad, "rows": rows}, indent=2
            )
        )
    else:
        print(
            f"reference {reference[:16]} in {span:.1f} s; "
            f"{sum(counts.values())} kills ({', '.join(f'{n} {t}' for t, n in sorted(counts.items()))}), "
            f"{bad} mismatches"
        )
    sys.exit(1 if bad or sum(counts.values()) < options.kills else 0)


def run(folder: Path, kills: int, drawn: random.Random) -> tuple[list[dict[str, object]], str, float]:
    study = place(folder / "undisturbed")
    started = time.monotonic()
    finish(study)
    span = time.monotonic() - started
    reference = digest(study)
    rows: list[dict[str, object]] = []
    number = 0
    while sum(bool(row["killed"]) for row in rows) < kills and number < 3 * kills:
        target = TARGETS[number % len(TARGETS)]
        study = place(folder / f"{number:03d}")
        killed, found, lasted = disturbed(study, target, drawn.uniform(0.3, 0.95) * span, drawn)
        if not killed:  # the machine has become faster: this run was an undisturbed one
            span = lasted
        rows.append({"run": number, "target": target, "killed": killed, "digest": found})
        same = "equal" if found == reference else "DIFFERENT"
        print(f"{number:3d} {target:<6} {'killed' if killed else 'too late'} {same}", file=sys.stderr, flush=True)
        number += 1
    return rows, reference, span


def place(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    study = folder / "kills.yaml"
    study.write_text(STUDY)
    return study


if __name__ == "__main__":
    main()
