"""One forward pass: this rank's losses, scaled so that their mean over ranks is the mean over the global batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlfleet.engine.contract import Context
from mtlfleet.train.build import Parts
from mtlfleet.train.communicator import Communicator
from mtlfleet.train.feed import Part


def forward(part: Part, parts: Parts, ctx: Context, comm: Communicator) -> tuple[dict[str, Tensor], Tensor | None]:
    """Scalar losses by task, and the representation if the model shows one; nothing for a rank without samples.

    A rank's mean over its n samples counts n * world / (samples of all ranks): ranks may be uneven, and labels missing.
    """
    counts = None
    if not part.fully_labelled:
        local = torch.tensor([int(part.batch.present[task.name].sum()) for task in parts.tasks], dtype=torch.float64)
        counts = (local, comm.total(local.clone()))
    if len(part.batch) == 0:
        return {}, None
    batch = part.batch.to(comm.device)
    output = parts.model(batch, ctx)
    losses = {}
    for k, task in enumerate(parts.tasks):
        share = len(batch) / part.global_size
        if counts is not None:
            share = float(counts[0][k] / counts[1][k]) if counts[1][k] else 0.0
        loss = parts.dataset.loss(task, output.predictions[task.name], batch)
        if (extra := output.extras.get(f"loss/{task.name}")) is not None:
            loss = loss + extra  # joins the task's loss before any weighting
        losses[task.name] = loss * (share * comm.world)
    return losses, output.features.get("shared")
