"""The command as a user runs it, for tests that need the real thing: real Ray, real ranks, real signals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STUDY = """\
schema: mtlfleet/study/1
study: tiny
methods: {stl: {}, ls: {use: linear, space: {weights: {simplex: {tasks: 2, points: 3}}}}, pcgrad: {}}
datasets: {synth: {use: synthetic_regression, params: {train: 256, val: 64, test: 64, dim: 8}}}
architectures: {mlp: {use: hps, params: {backbone: mlp, width: 8, dropout: 0.1}}}
seeds: [1, 2]
train: {lr: 0.01, global_batch: 32, steps: 60, eval_every: 20, checkpoint_every: 20, log_every: 10}
search: {space: {train.lr: {log_uniform: [1e-3, 1e-2]}}, trials_per_method: 2, seeds: [901]}
resources: {workers: 2}
claims:
  - {id: pcgrad_beats_sum, method: pcgrad, baseline: {best_of: [ls]}, margin: 1.0, scope: these_datasets}
"""


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "mtlfleet.cli", *map(str, words)]


def environment() -> dict[str, str]:
    """Ray would let its workers wait for every other test of the suite."""
    return {**os.environ, "RAY_worker_niceness": "0", "CI": "true"}


def run(*words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), capture_output=True, text=True, env=environment(), timeout=timeout, check=False
    )


def write(folder: Path, text: str = STUDY, *replacements: tuple[str, str]) -> Path:
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new, 1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path
