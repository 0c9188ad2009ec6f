"""A split measured on real ranks: sums and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from mtlfleet.datasets.base import ArraySamples, Task
from mtlfleet.engine.contract import Batch, Context, Output
from mtlfleet.train import Communicator
from mtlfleet.train.evaluate import evaluate

TASKS = (
    Task("sign", 1, "binary", ("auc", "f1", "logloss"), 0.5),
    Task("kind", 4, "classification", ("macro_f1", "accuracy"), 0.25),
    Task("normals", 3, "normals", ("angle_median", "angle_mean"), 90.0),
)


class Fixed(nn.Module):
    """Predictions that are a function of the sample."""

    def forward(self, batch: Batch, ctx: Context) -> Output:
        x: Any = batch.inputs
        normals = torch.stack((x[:, :6], x[:, 6:12], 1 + x[:, :6] ** 2), 1).view(-1, 3, 2, 3)
        return Output({"sign": (x[:, :1] * 2).round(), "kind": x[:, 4:8], "normals": normals})


def samples() -> ArraySamples:
    """37 of them: ranks get unequal parts; the last part of four has no positive."""
    rng = np.random.RandomState(0)
    x = rng.standard_normal((37, 12)).astype(np.float32)
    sign = (x[:, 0] + rng.standard_normal(37) > 0).astype(np.float32)
    sign[28:] = 0
    normals = rng.standard_normal((37, 3, 2, 3)).astype(np.float32)
    targets = {"sign": sign, "kind": rng.randint(0, 4, 37), "normals": normals}
    return ArraySamples(x, targets)


def measure(rank: int, world: int) -> dict[str, float]:
    comm = Communicator(rank, world, dist.group.WORLD if world > 1 else None)
    found = evaluate(Fixed(), samples(), TASKS, Context(), comm)
    return {f"{m.task}.{m.metric}": m.value for m in found} | {f"{m.task}.{m.metric}.n": float(m.n) for m in found}
