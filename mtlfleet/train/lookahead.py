"""Bilevel methods: before a step the trainer tries one out, looks at another batch from there, and comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtlfleet.datasets.base import Split
from mtlfleet.engine import kept_buffers
from mtlfleet.engine.gradients import Step
from mtlfleet.plan.streams import stream
from mtlfleet.train.communicator import Communicator

if TYPE_CHECKING:
    from mtlfleet.train.run import TrialRun

Pass = Callable[[], Mapping[str, Tensor]]  # one forward pass: this rank's losses


@dataclass(frozen=True)
class Ahead:
    """What a method's ``look_ahead`` is served. Parameters and buffers are afterwards what they were, bit for bit.

    ``inner`` and ``outer`` give losses of the step's batch and of the outer one at the parameters as they are; three
    gradients' worth of memory is used meanwhile.
    """

    model: nn.Module
    tasks: tuple[str, ...]
    comm: Communicator
    optimizer: torch.optim.Optimizer
    inner: Pass
    outer: Pass

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def slopes(self, weights: Tensor, primary: Tensor, reach: float) -> Tensor | None:
        """As ``LookAhead.slopes``; the same numbers on every rank."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in parameters]
        with kept_buffers(self.model):
            try:
                _place(parameters, self._virtual(parameters, self._gradient(self.inner, weights, parameters)))
                v = self._gradient(self.outer, primary, parameters)
                norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(v)), dtype=torch.float64))
                if not (math.isfinite(norm) and norm > 0):
                    return None
                step = reach / norm
                sides = []
                for signed in (step, -step):
                    _place(parameters, torch._foreach_add(before, v, alpha=signed))
                    sides.append(self._told(self.inner))
            finally:
                _place(parameters, before)
        found = (sides[0] - sides[1]) / (2.0 * step)
        return found if bool(torch.isfinite(found).all()) else None

    def _virtual(self, parameters: Sequence[nn.Parameter], gradient: Sequence[Tensor]) -> list[Tensor]:
        """x - rate * (momentum part + gradient + decay * x): SGD's step, whatever the optimizer, as the authors'."""
        groups = self.optimizer.param_groups
        group_of = {id(p): group for group in groups for p in group["params"]}
        found = []
        for parameter, change in zip(parameters, gradient, strict=True):
            group = group_of.get(id(parameter), groups[0])  # a role's own optimizer is not asked
            momentum, decay = float(group.get("momentum", 0.0)), float(group["weight_decay"])
            held = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            whole = change + decay * parameter.detach()
            found.append(parameter.detach() - self.rate * (whole if held is None else whole + momentum * held))
        return found

    def _gradient(self, losses: Pass, weights: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Of weights @ losses, averaged over ranks; zeros for parameters that no loss reaches."""
        told = losses()
        total = [float(w) * told[task] for task, w in zip(self.tasks, weights, strict=True) if task in told and w]
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if total:
            found = torch.autograd.grad(torch.stack(total).sum(), parameters, allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])
        mean = self.comm.total(flat) / self.comm.world
        pieces = torch.split(mean, [p.numel() for p in parameters])
        return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]

    @torch.no_grad()
    def _told(self, losses: Pass) -> Tensor:
        """[K] float64: losses of the global batch."""
        told = losses()
        mine = torch.tensor([float(told[task]) if task in told else 0.0 for task in self.tasks], dtype=torch.float64)
        return self.comm.total(mine) / self.comm.world


def _place(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), list(values))


class Foresight:
    """The method's state on its way through look-aheads: moved before a step, moved back if the step is skipped."""

    def __init__(self, run: TrialRun) -> None:
        self._run = run
        split = Split.VAL if run.parts.method.outer_split == "val" else Split.TRAIN
        augment = run.feed.augment if split is Split.TRAIN else None
        samples, seed = run.parts.splits[split], stream(run.trial.seed, "outer")
        self._feed = replace(run.feed, samples=samples, seed=seed, augment=augment)
        self._before: Any = None

    def look(self, step: int) -> None:
        """Let the method look ahead of a step (0-based): at that step's last batch, and one of the outer feed."""
        run, engine, method = self._run, self._run.engine, self._run.parts.method
        if engine.state is None:
            engine.state = method.init(len(run.feed.tasks))
        self._before = engine.state
        ahead = Ahead(
            run.parts.model,
            run.feed.tasks,
            run.comm,
            run.optimizers.each[0],
            inner=lambda: run.losses(step * engine.batches + engine.batches - 1, step)[0],
            outer=lambda: run.losses(step, step, "outer", self._feed)[0],
        )
        engine.state = method.look_ahead(ahead, self._before, Step(engine.steps, run.epoch(step), run.trial.seed))

    def samples(self, step: int) -> int:
        """How many the outer batch of a step has."""
        return self._feed.size(step)

    def undo(self) -> None:
        """The step was skipped: the state is as before it."""
        self._run.engine.state = self._before
