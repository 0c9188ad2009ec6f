"""A valid study to make mistakes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

STUDY = """\
schema: mtlfleet/study/1
study: toy-study
methods:
  stl: {use: stl}
  ls: {use: linear, space: {weights: {simplex: {tasks: 2, points: 3}}}}
  cagrad:
    use: cagrad
    params: {c: 0.4}
    label: "CAGrad"
datasets:
  toy: {use: synthetic_regression, params: {tasks: 2}}
architectures:
  mlp: {use: hps, params: {backbone: mlp}}
seeds: {count: 8, base: 1}
train: {optimizer: adam, lr: 1e-3, global_batch: 64, steps: 300}
search:
  space: {train.lr: {log_uniform: [1e-3, 1e-2]}}
  trials_per_method: 4
  seeds: [901]
claims:
  - id: c1
    method: cagrad
    baseline: {best_of: [ls]}
    estimand: {kind: delta_m}
    margin: 0.5
    scope: these_datasets
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a study file after replacements in the valid one, and stand beside it; the path given is relative."""
    monkeypatch.chdir(tmp_path)

    def write(*replacements: tuple[str, str], name: str = "study.yaml", text: str = STUDY) -> Path:
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new, 1)
        Path(name).write_text(text, encoding="utf-8")
        return Path(name)

    return write
