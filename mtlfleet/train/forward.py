"""One forward pass: this rank's losses, scaled so that their mean over ranks is the mean over the global batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtlfleet.engine.contract import Context
from mtlfleet.strategies.base import Phase
from mtlfleet.train.build import Parts
from mtlfleet.train.communicator import Communicator
from mtlfleet.train.feed import Part


class Passed(NamedTuple):
    """A rank's losses by task, the representation if the model shows one, and what is added after the weighting."""

    losses: dict[str, Tensor]
    shared: Tensor | None = None
    after: Tensor | None = None


def forward(part: Part, parts: Parts, ctx: Context, comm: Communicator, phase: Phase | None = None) -> Passed:
    """One pass in a phase; nothing for a rank without samples.

    A rank's mean over its n samples counts n * world / (samples of all ranks): ranks may be uneven, and labels missing.
    """
    counts = None
    if not part.fully_labelled:
        local = torch.tensor([int(part.batch.present[task.name].sum()) for task in parts.tasks], dtype=torch.float64)
        counts = (local, comm.total(local.clone()))
    if len(part.batch) == 0:
        return Passed({})
    batch = part.batch.to(comm.device)
    with tapped(parts.model, phase.taps if phase else ()) as seen:
        output = parts.model(batch, ctx)
    extras = dict(output.extras)
    if phase is not None and phase.extra is not None:
        output = replace(output, features={**output.features, **seen})
        for name, value in phase.extra(parts.model, batch, output, ctx).items():
            extras[name] = extras[name] + value if name in extras else value
    losses = {}
    for k, task in enumerate(parts.tasks):
        share = len(batch) / part.global_size
        if counts is not None:
            share = float(counts[0][k] / counts[1][k]) if counts[1][k] else 0.0
        loss = parts.dataset.loss(task, output.predictions[task.name], batch)
        if (extra := extras.get(f"loss/{task.name}")) is not None:
            loss = loss + extra  # joins the task's loss before any weighting
        losses[task.name] = loss * (share * comm.world)
    after = extras.get("loss/*")
    if after is not None:
        after = after * (len(batch) / part.global_size * comm.world)
    return Passed(losses, output.features.get("shared"), after)


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What these submodules give in a forward pass inside, as ``tap/<name>``. Raises ValueError for an unknown one."""
    known, seen = dict(model.named_modules()), {}
    if strange := [name for name in names if name not in known]:
        raise ValueError(f"the phase taps {strange[0]!r}, but the model has no such submodule")

    def keep(name: str, found: Tensor) -> None:
        seen[f"tap/{name}"] = found

    handles = [known[name].register_forward_hook(lambda _m, _x, y, name=name: keep(name, y)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class After:
    """The gradient of what is added after the weighting: mean over ranks, the same on each of them."""

    def __init__(self, model: nn.Module, passed: Sequence[Passed], comm: Communicator, uneven: bool) -> None:
        """Before the step, whose backward passes free the graph. ``uneven``: a rank may have had no samples."""
        given = [one.after for one in passed if one.after is not None]
        some = bool(given)
        if uneven:
            some = bool(comm.total(torch.tensor(float(some))))
        self.parameters = [p for p in model.parameters() if p.requires_grad] if some else []
        self.flat: Tensor | None = None
        if not some:
            return
        grads: Sequence[Tensor | None] = [None] * len(self.parameters)
        if given:
            total = torch.stack(given).mean()
            grads = torch.autograd.grad(total, self.parameters, retain_graph=True, allow_unused=True)
        pairs = list(zip(self.parameters, grads, strict=True))
        flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])
        self.flat = comm.total(flat) / comm.world

    @property
    def finite(self) -> bool:
        return self.flat is None or bool(self.flat.isfinite().all())

    def add(self) -> None:
        """To the gradients that the method has made; a parameter that neither reaches keeps none."""
        if self.flat is None:
            return
        pieces = torch.split(self.flat, [p.numel() for p in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            if parameter.grad is not None:
                parameter.grad += piece.view_as(parameter)
            elif piece.any():
                parameter.grad = piece.view_as(parameter).clone()
