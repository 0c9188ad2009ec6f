"""The goals of the gradient engine, and the cells of `engine.py` that they speak of."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

LARGE = ("mlp-4M", "cnn-1.1M", "transformer-1.2M")  # P >= 1 M
SMALL = ("mlp-41k", "resnet-0.6M")
Found = dict[str, Any]


def cells(run: Callable[[Found], Found], alone: bool, models: Collection[str]) -> Iterator[tuple[Found, Found]]:
    """Each cell of these models and what was measured."""
    for cell in _wanted():
        if cell["model"] not in models:
            continue
        found = run({**cell, "isolated": alone})
        print(json.dumps(cell | found), file=sys.stderr, flush=True)
        yield cell, found


def _wanted() -> Iterator[Found]:
    for model in (*LARGE, *SMALL):
        for tasks in (3, 8):
            for world in (1, 2):
                if world == 1 and model in SMALL:
                    continue
                ways = ["plain", "bare", "naive", "engine", "auto"]
                ways += ["bf16"] if world > 1 and model == "mlp-4M" else []
                ways += ["torchjd"] if world == 1 else []
                ways += ["ub", "every10"] if tasks == 8 and model in LARGE else []
                repeats = 60 if model == "mlp-41k" else 11
                yield {
                    "model": model,
                    "tasks": tasks,
                    "world": world,
                    "ways": ways,
                    "repeats": repeats,
                    "memory": False,
                }
    for tasks, world in ((3, 1), (3, 2), (3, 4), (40, 1), (40, 2), (40, 4)):
        yield {"model": "mlp-4M", "tasks": tasks, "world": world, "ways": ["engine"], "repeats": 1, "memory": True}
    yield {"model": "mlp-4M", "tasks": 8, "world": 1, "ways": ["auto"], "repeats": 1, "memory": True}


def judged(rows: list[Found]) -> str:
    """A Markdown table: what, where, goal, measured, met."""
    lines = ["| what | model | K | W | measured | goal | met | beside it |", "|" + "---|" * 8]
    for row in rows:
        cell = row["cell"]
        for what, value, goal, beside in _memory(row) if cell["memory"] else _times(row):
            met = "yes" if value <= goal else "no"
            where = f"{cell['model']} | {cell['tasks']} | {cell['world']}"
            lines.append(f"| {what} | {where} | **{value:.3g}** | <= {goal:.3g} | {met} | {beside} |")
    lines.append("\nThe solvers' goals are those of `python benchmarks/solvers.py`.")
    return "\n".join(lines)


def _memory(row: Found) -> Iterator[tuple[str, float, float, str]]:
    cell = row["cell"]
    factored = cell["ways"] == ["auto"]
    goal = 2.2 if factored else (cell["tasks"] + 1) / cell["world"] + 1.05
    yield f"peak memory / P{', factored' if factored else ''}", row["words_over_P"], goal, ""


def _paired(each: dict[str, list[float]], way: str, base: str) -> float:
    """Median over repeats of the ratio within a repeat: a machine whose speed drifts is the same for both then."""
    return statistics.median(a / b for a, b in zip(each[way], each[base], strict=True))


def _times(row: Found) -> Iterator[tuple[str, float, float, str]]:
    cell, floor = row["cell"], (1 + 2 * row["cell"]["tasks"]) / 3
    ratio = {way: _paired(row["each"], way, "plain") for way in row["each"]}
    beside = ", ".join(f"{way} {ratio[way]:.2f}" for way in ("bare", "engine", "naive", "torchjd") if way in ratio)
    if cell["model"] in LARGE:
        yield "exact step (auto) / plain", ratio["auto"], (1.05 if cell["world"] == 1 else 1.15) * floor, beside
    if cell["world"] > 1:
        for way in ("engine", "auto"):
            yield f"{way} / naive", _paired(row["each"], way, "naive"), 1.05, ""
    if "ub" in ratio:
        yield "ub / plain", ratio["ub"], 1.2, ""
        yield "every: 10 / plain", ratio["every10"], 1.6, ""
    if cell["model"] == "mlp-4M" and cell["tasks"] == 8 and cell["world"] == 1:
        yield "factored (auto) / plain", ratio["auto"], 3.8, beside
    if cell["model"] == "mlp-4M" and cell["world"] > 1:
        sent = row.get("lo_bytes") or row["bytes"]
        tasks = cell["tasks"]
        yield "bytes / naive", sent["engine"] / sent["naive"], 1.01 * (tasks + 1) / (2 * tasks), ""
        yield "bytes / naive, bf16", sent["bf16"] / sent["naive"], {3: 0.42, 8: 0.32}[tasks], ""
