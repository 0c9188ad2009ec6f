"""What an exact multi-task step costs: bytes, memory and CPU time against plain data-parallel training.

    python benchmarks/engine.py                               # the default grid, a Markdown table
    python benchmarks/engine.py --models mlp-4M --tasks 3,8 --worlds 1,2 --json
    python benchmarks/engine.py --done --markdown FILE        # every goal beside what was measured (of --models)

Every cell runs in fresh processes, where possible in a network namespace of its own (`unshare -rn`), whose loopback
counter
then tells the bytes. Times are CPU seconds of all threads of rank 0, the ways interleaved, medians over --repeats: on a
shared machine they are steadier than wall time. Ratios are to `plain`: forward and one backward of the summed losses,
under DistributedDataParallel when there are several ranks.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ONE_RANK = ("torchjd",)
MEASURED = ("plain", "naive", "engine", "auto", "torchjd")  # peak memory
WAYS = ("plain", "bare", "naive", "engine", "bf16", "auto", "batched", "ub", "every10", "torchjd")


def loopback_up() -> None:
    """Switch on `lo` in a fresh network namespace (SIOCGIFFLAGS, SIOCSIFFLAGS)."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        flags = struct.unpack("16sH14s", fcntl.ioctl(sock, 0x8913, request))[1]
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14s", b"lo", flags | 1, b""))


def loopback_bytes() -> int:
    """Bytes sent over `lo` so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.strip().partition(":")
        if name == "lo":
            return int(rest.split()[8])
    return 0


def peak_words() -> float:
    """Peak resident memory since the last reset, in float32 words."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 4
    return float("nan")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def member(rank: int, world: int, folder: str, cell: dict[str, Any]) -> None:
    """One rank of one cell."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if world > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meeting", world), rank=rank, world_size=world)
    found = memory(rank, world, cell) if cell["memory"] else times(rank, world, cell)
    if rank == 0:
        Path(f"{folder}/found.json").write_text(json.dumps(found))
    if world > 1:
        dist.destroy_process_group()


def times(rank: int, world: int, cell: dict[str, Any]) -> dict[str, Any]:
    """CPU milliseconds and bytes by way."""
    import torch.distributed as dist
    from ways import build

    steps: dict[str, Callable[[], int]] = {
        way: build(way, cell["model"], cell["tasks"], rank, world) for way in cell["ways"]
    }
    spent: dict[str, list[float]] = {way: [] for way in steps}
    moved: dict[str, int] = {}
    counted: dict[str, int] = {}
    for repeat in range(cell["repeats"] + 2):
        turn = repeat % len(steps)  # who comes after whom moves small models' times by a tenth
        for way in [*steps, *steps][turn : turn + len(steps)]:
            step = steps[way]
            if world > 1:
                dist.barrier()
            wire, start = loopback_bytes(), time.process_time()
            sent = 0
            for _ in range(10 if way == "every10" else 1):
                sent = max(sent, step())
            elapsed = time.process_time() - start
            if world > 1:
                dist.barrier()
            if repeat >= 2:
                spent[way].append(elapsed / (10 if way == "every10" else 1))
            moved[way], counted[way] = (loopback_bytes() - wire) // world, sent
    return {
        "ms": {way: 1e3 * statistics.median(each) for way, each in spent.items()},
        "each": {way: [round(1e3 * one, 4) for one in each] for way, each in spent.items()},
        "bytes": counted,
        "lo_bytes": moved if cell["isolated"] and world > 1 else None,
    }


def memory(rank: int, world: int, cell: dict[str, Any]) -> dict[str, Any]:
    """Peak words beyond model and activations, over P, by way (one way per process)."""
    from ways import build, numbers

    way = cell["ways"][0]
    # Libraries come into memory with their first use: on a small model, before anything is counted.
    warm = build(way, "mlp-0.9M", 3, rank, world)
    for _ in range(2):
        warm()
    del warm
    gc.collect()
    step = build(way, cell["model"], cell["tasks"], rank, world, watch=True)
    base = step()  # resident words with model and activations, before anything else was allocated
    for _ in range(3):
        reset_peak()
        step()
    return {"words_over_P": (peak_words() - base) / numbers(cell["model"])}


def spawn(cell: dict[str, Any]) -> None:
    """The inner process of a cell: start its ranks."""
    import torch.multiprocessing as mp

    if cell["isolated"]:
        loopback_up()
    mp.spawn(member, args=(cell["world"], cell["folder"], cell), nprocs=cell["world"])


def isolated() -> bool:
    """Whether network namespaces can be had here."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-rn", "true"], capture_output=True, check=False).returncode == 0


def run(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        cell = {**cell, "folder": folder}
        command = [sys.executable, __file__, "--inside", json.dumps(cell)]
        if cell["isolated"]:
            command = ["unshare", "-rn", *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if cell["memory"]:
            environment["MALLOC_MMAP_THRESHOLD_"] = environment["MALLOC_TRIM_THRESHOLD_"] = "65536"
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        found: dict[str, Any] = json.loads(Path(f"{folder}/found.json").read_text())
        return found


def grid(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    alone, rows = isolated(), []
    for model in arguments.models.split(","):
        for tasks in map(int, arguments.tasks.split(",")):
            for world in map(int, arguments.worlds.split(",")):
                ways = [w for w in arguments.ways.split(",") if world == 1 or w not in ONE_RANK]
                cell = {"model": model, "tasks": tasks, "world": world, "repeats": arguments.repeats, "isolated": alone}
                row = {"model": model, "tasks": tasks, "world": world}
                if not arguments.memory_only:
                    row |= run({**cell, "ways": ways, "memory": False})
                if arguments.memory or arguments.memory_only:
                    each = {w: run({**cell, "ways": [w], "memory": True}) for w in ways if w in MEASURED}
                    row["words_over_P"] = {w: found["words_over_P"] for w, found in each.items()}
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """CPU ratio to plain by way; bytes by way over the naive all-reduce's; memory in P words."""
    ways = [w for w in WAYS if any(w in row.get("ms", row.get("words_over_P", {})) for row in rows)]
    lines = [
        f"| model | K | W | (1+2K)/3 | {' | '.join(ways)} | bytes ÷ naive: engine, bf16 | memory ÷ P |",
        "|" + "---|" * (len(ways) + 6),
    ]
    for row in rows:
        ms, sent = row.get("ms", {}), row.get("lo_bytes") or row.get("bytes", {})
        ratios = [f"{ms[w] / ms['plain']:.2f}" if w in ms else "" for w in ways]
        moved = ", ".join(
            f"{sent[w] / sent['naive']:.3f}"
            for w in ("engine", "bf16")
            if row["world"] > 1 and w in sent and sent.get("naive")
        )
        words = ", ".join(f"{w} {value:.2f}" for w, value in row.get("words_over_P", {}).items())
        floor = f"{(1 + 2 * row['tasks']) / 3:.2f}"
        lines.append(
            f"| {row['model']} | {row['tasks']} | {row['world']} | {floor} | {' | '.join(ratios)} | {moved} | {words} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mlp-41k,mlp-4M,cnn-1.1M,resnet-0.6M,transformer-1.2M")
    parser.add_argument("--tasks", default="2,3,8,40")
    parser.add_argument("--worlds", default="1,2,4")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="peak memory too: one process more per way")
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--done", action="store_true", help="only the cells that goals speak of: goal, measured, met")
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        spawn(json.loads(arguments.inside))
        return
    import torch

    if arguments.done:
        from goals import cells, judged

        rows = [found | {"cell": cell} for cell, found in cells(run, isolated(), arguments.models.split(","))]
        table = judged(rows)
    else:
        rows = grid(arguments)
        table = markdown(rows)
    facts = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }
    if arguments.markdown:
        said = f"torch {facts['torch']}, Python {facts['python']}, {facts['cpus']} CPUs, {facts['machine']}"
        arguments.markdown.write_text(f"{table}\n\n{said}, {time.strftime('%d %B %Y')}.\n")
    print(json.dumps({"facts": facts, "rows": rows}, indent=1) if arguments.json else table)


if __name__ == "__main__":
    main()
