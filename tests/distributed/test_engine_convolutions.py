"""Convolutions on real ranks: late ones factored, early ones direct, uneven batches; and one choice for all ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import cases
from crew import crew

from mtlfleet.engine import GradientEngine

BATCH = 5  # not divisible by 2 or 4
TASKS = 4


class Pictures(nn.Module):
    """Two early convolutions, two late ones of which the last is wide, heads on the mean over positions."""

    def __init__(self, tasks: int = TASKS) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Tanh(),
            nn.Conv2d(8, 16, 3, 2, "valid"),
            nn.Tanh(),
            nn.Conv2d(16, 192, 3, 2, 1, padding_mode="replicate"),
            nn.Tanh(),
            nn.Conv2d(192, 192, 3, bias=False, padding="same"),
        )
        self.heads = nn.ModuleList([nn.Linear(192, 2) for _ in range(tasks)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Per-sample losses [B] by task."""
        z = torch.tanh(self.trunk(x).mean((2, 3)))
        return {f"t{k}": (head(z) - k).square().mean(1) for k, head in enumerate(self.heads)}


def run(rank: int, world: int, backward: str, steps: int = 2) -> tuple[list[dict[str, Tensor]], list[str]]:
    """Gradients and ways of some steps on this rank's part of the batch."""
    model, found, ways = Pictures(), [], []
    engine = GradientEngine(model, "mgda", backward=backward)
    mine = torch.from_numpy(np.array_split(np.arange(BATCH), world)[rank])
    for step in range(steps):
        x = torch.randn(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        losses = {t: each.mean() * (len(mine) * world / BATCH) for t, each in model(x[mine]).items()}
        ways.append(engine.step(losses).backward)
        found.append(cases.gradients(model))
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.05 * p.grad  # type: ignore[operator]
        model.zero_grad(set_to_none=True)
    return found, ways


class Outside(torch.autograd.Function):
    """The identity, whose backward leaves torch: no batching rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return torch.from_numpy(g.numpy().copy())


def small(rank: int, world: int, leaves: bool) -> list[str]:
    """Ways of three steps of a small MLP with six tasks; one rank's graph alone may leave torch; a task comes late."""
    torch.manual_seed(0)
    trunk, heads = nn.Linear(6, 7), nn.ModuleList([nn.Linear(7, 1) for _ in range(6)])
    engine = GradientEngine(nn.ModuleDict({"trunk": trunk, "heads": heads}), "mgda", backward="auto")
    ways = []
    for step in range(3):
        z = trunk(torch.randn(4 + rank, 6, generator=torch.Generator().manual_seed(10 * step + rank))).tanh()
        z = Outside.apply(z) if leaves and rank == world - 1 else z  # type: ignore[no-untyped-call]
        losses = {f"t{k}": head(z).square().mean() for k, head in enumerate(heads)}
        if step == 0 and rank == world - 1:
            losses.pop("t5")
        ways.append(engine.step(losses).backward)
    return ways


def _member(rank: int, world: int) -> dict[str, Any]:
    if world == 4:
        return {way: run(rank, world, way, steps=1) for way in ("sequential", "auto")}
    found: dict[str, Any] = {way: run(rank, world, way) for way in ("sequential", "factored", "auto")}
    if world == 2:
        found |= {"batched": small(rank, world, leaves=False), "leaves": small(rank, world, leaves=True)}
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_late_convolutions_are_factored_and_all_ranks_choose_alike(world: int) -> None:
    alone = run(0, 1, "sequential", steps=1)[0][0]
    ranks = [_member(0, 1)] if world == 1 else crew(world, _member)
    for way in {"factored", "auto"} & ranks[0].keys():
        steps, told = ranks[0][way]
        assert told == ["factored, 2 of 8 layers"] * len(steps)
        for found, right in zip(steps, ranks[0]["sequential"][0], strict=True):
            assert cases.relative(found, right) < 1e-6, way
        # Means over other groups of samples: sequential passes on four ranks are as far from those on one.
        assert cases.relative(steps[0], alone) < 2e-6, way
        for other in ranks:
            assert other[way][1] == told
            assert all(torch.equal(one[n], two[n]) for one, two in zip(other[way][0], steps, strict=True) for n in one)
    # The late task is a change: a step is decided by what was listened to, the next one by everything.
    outside, late = "sequential, an operation cannot be batched", "batched, 6 tasks a pass"
    for each in ranks if world == 2 else ():
        assert each["batched"] == [late, "sequential", late]
        assert each["leaves"] == [outside, "sequential", outside]
