"""The engine's ways of computing one and the same step, on a small network made to travel as a large one does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

import cases

from mtlfleet.engine import GradientEngine, StepInfo, collect
from mtlfleet.engine.watching import Watch


def as_large(numbers: int = 16) -> None:
    """From here on, in this process, nothing travels together and a bucket holds ``numbers``: parameters are cut."""
    collect.TOGETHER = 0
    collect.bucket_size = lambda size, world: min(numbers, size // 8)


def local(
    model: cases.Net, step: int, rank: int, world: int, part: tuple[int, int] = (0, 1)
) -> tuple[dict[str, Tensor], Tensor]:
    """This rank's losses on its part of a global batch (or of one of several micro-batches), and the representation."""
    x, y = cases.data(step)
    mine = torch.from_numpy(np.array_split(np.array_split(np.arange(cases.BATCH), world)[rank], part[1])[part[0]])
    seen: list[Tensor] = []
    handle = model.trunk.register_forward_hook(lambda _m, _i, out: seen.append(out))
    losses = model.losses(x[mine], y[mine])
    handle.remove()
    return {t: v.mean() * (len(mine) * world / cases.BATCH) for t, v in losses.items()}, seen[0]


def run(
    rank: int, world: int, method: str, steps: int = 2, watch: Watch | None = None, single: bool = False, **options: Any
) -> tuple[list[dict[str, Tensor]], list[StepInfo]]:
    """Gradients and infos of some steps of one way."""
    model, found, infos = cases.net(single), [], []
    if options.get("representation") == "trunk":
        options["representation"] = model.trunk
    engine = GradientEngine(model, cases.build(method), seed=3, **options)
    for step in range(steps):
        losses, _ = local(model, step, rank, world)
        infos.append(engine.step(losses, epoch=step, watch=watch))
        found.append(cases.gradients(model))
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.05 * p.grad
        model.zero_grad(set_to_none=True)
    return found, infos
