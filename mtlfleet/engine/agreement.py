"""What all ranks agree on before a step: tasks, mean losses, what is shared, and where the numbers go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlfleet.engine.collect import Plan
from mtlfleet.engine.discovery import Reach, discover, lies_behind
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.factored import Factors
from mtlfleet.engine.gradients import Losses, Needs
from mtlfleet.engine.linear import Call, Recorder
from mtlfleet.engine.representation import refuse_without

BACKWARDS = ("sequential", "batched", "factored", "auto")


class Agreement:
    """Kept from step to step, and found anew when any rank's graph may have changed."""

    def __init__(
        self,
        model: nn.Module,
        method: Any,
        exchange: Exchange,
        backward: str,
        chunk: int,
        approximate: str | None,
        declared: Sequence[nn.Parameter] | None,
    ) -> None:
        self._model = model
        self._method = method
        self._exchange = exchange
        self._backward, self._chunk, self._approximate = backward, chunk, approximate
        self._declared = declared
        self._found: Reach | None = None
        self._signature: object = None
        self._plan: Plan | None = None
        self.tasks: tuple[str, ...] = ()
        self.behind = False  # every shared parameter lies behind the representation, on every rank
        self.width = 0  # numbers of the representation per sample
        self.factors: Factors | None = None
        self.calls: dict[str, list[Call]] = {}
        alone = getattr(method, "batches", 1) == 1 and method.needs is Needs.GRAM and approximate is None
        self._recorder = Recorder(model) if backward in ("factored", "auto") and alone else None

    @property
    def reach(self) -> Reach:
        """Raises RuntimeError before the first step."""
        if self._found is None:
            raise RuntimeError("what is shared is known after the first step")
        return self._found

    @property
    def plan(self) -> Plan:
        """Raises RuntimeError before the first step."""
        if self._plan is None:
            raise RuntimeError("where numbers go is known after the first step")
        return self._plan

    @property
    def looks(self) -> bool:
        """Whether layers may be factored."""
        return self._recorder is not None

    def holds(self, rows: Tensor) -> bool:
        """Whether rows of an earlier step have the size of this one's."""
        return rows.shape == (len(self.tasks), self.plan.layout.shard)

    def record(self, recording: bool) -> None:
        """Layers called again inside a backward pass (checkpoints) are not noted."""
        if self._recorder is not None:
            self._recorder.recording = recording

    def prepare(
        self, batches: Sequence[Mapping[str, Tensor]], zs: Sequence[Tensor | None]
    ) -> tuple[list[Losses], list[list[bool]]]:
        """Average the losses over ranks; find tasks, shared parameters and layouts when the graph may have changed.

        Whether it changed is agreed in the same all-reduce: one rank that sees a new task makes all of them look again.
        """
        names = sorted({task for losses in batches for task in losses})
        for losses in batches:
            for task, loss in losses.items():
                if loss.numel() != 1:
                    raise ValueError(f"the loss of task {task!r} must be a scalar; found shape {tuple(loss.shape)}")
        if not self.tasks:
            self.tasks = self._exchange.union(names)
            if not self.tasks:
                raise ValueError("step needs at least one task's loss")
        if missing := set(names) - set(self.tasks):
            raise ValueError(f"tasks {sorted(missing)} appear after the first step; known: {', '.join(self.tasks)}")
        self.calls = self._recorder.take() if self._recorder is not None else {}
        calls = tuple((name, len(made), all(call.intact for call in made)) for name, made in self.calls.items())
        requires = (p.requires_grad for p in self._model.parameters())
        present = tuple(tuple(sorted(losses)) for losses in batches)
        signature = (present, self._model.training, tuple(z is not None for z in zs), calls, *requires)
        tasks = len(self.tasks)
        told = torch.zeros(2 * len(batches) * tasks + 1, dtype=torch.float64)
        told[-1] = float(signature != self._signature)
        values = told[:-1].view(len(batches), 2, tasks)
        for place, losses in enumerate(batches):
            for k, task in enumerate(self.tasks):
                if task in losses:
                    values[place, 0, k] = losses[task].detach().to(torch.float64).cpu()
                    values[place, 1, k] = float(losses[task].requires_grad)
        told = self._exchange.mean(told)
        values = told[:-1].view(len(batches), 2, tasks)
        if told[-1] > 0:
            self._discover(batches, zs)
            self._signature = signature
        return [Losses(part[0].clone()) for part in values], [(part[1] > 0).tolist() for part in values]

    def _discover(self, batches: Sequence[Mapping[str, Tensor]], zs: Sequence[Tensor | None]) -> None:
        merged = {task: loss for losses in batches for task, loss in losses.items()}
        self._found = discover(self._model, merged, self.tasks, self._exchange, self._declared, self._found)
        if not self._found.shared:
            raise ValueError("no parameter is reached by two tasks: there is nothing to balance")
        pairs = zip(zs, batches, strict=True)
        self.width = max((z[0].numel() for z in zs if z is not None and len(z)), default=0)
        apart = any(losses and (z is None or not lies_behind(z, losses, self._found.shared)) for z, losses in pairs)
        agreed = self._exchange.maximum(torch.tensor([float(apart), float(self.width)]))
        self.behind, self.width = not float(agreed[0]), int(agreed[1])
        if self._approximate == "ub" or self._method.needs is Needs.REPRESENTATION:
            refuse_without(self.behind, "ub" if self._approximate else f"method {self._method.name!r}")
        tasks = len(self.tasks)
        chunk = (self._chunk or tasks) if self._backward == "batched" else 0
        self.factors = None
        if self._recorder is not None:
            found = Factors.of(self._found, self._recorder, self.calls, list(merged.values()), self._exchange)
            if found.layers and (self._backward == "factored" or found.fits(len(self.tasks))):
                self.factors, self._plan = found, found.whole
                return
        if self._plan is None or self._plan.chunk != chunk or not self._plan.fits(self._found):
            self._plan = Plan.of(self._found, self._exchange, chunk)
