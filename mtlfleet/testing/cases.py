"""Task gradients built to have one trait each, and one step of a method on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mtlfleet.engine.gradients import Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods.ahead import LinearAhead
from mtlfleet.methods.base import Method

PARAMETERS = 40

AnyMethod: TypeAlias = "Method[Any]"


@dataclass(frozen=True)
class Case:
    """Task gradients [K, P] built to have one trait, with positive losses [K]."""

    trait: str
    jacobian: Tensor
    losses: Tensor

    @property
    def tasks(self) -> int:
        return len(self.losses)


def case(trait: str, tasks: int, seed: int = 0) -> Case:
    """Float64 gradients that are ``plain`` (independent), ``agreeing`` (no conflict), ``stationary`` (a convex
    combination vanishes), ``dependent`` (rank 2), ``parallel``, ``opposed`` (one row is another's negative),
    ``zero_row`` or ``zero``.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, PARAMETERS, generator=generator, dtype=torch.float64)
    mix = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1
    losses = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.5
    match trait:
        case "agreeing":
            rows = rows.abs()
        case "stationary":
            rows[-1] = -(mix[:-1] @ rows[:-1]) / mix[-1]
        case "dependent":
            rows = torch.randn(tasks, 2, generator=generator, dtype=torch.float64) @ rows[:2] if tasks > 2 else rows
        case "parallel":
            rows = mix[:, None] * rows[:1]
        case "opposed":
            rows[-1] = -rows[0]
        case "zero_row":
            rows[0] = 0.0
        case "zero":
            rows = torch.zeros_like(rows)
    return Case(trait, rows, losses)


TRAITS = ("plain", "agreeing", "stationary", "dependent", "parallel", "opposed", "zero_row", "zero")


def gradients(method: AnyMethod, case: Case, *, apart: bool = True) -> DenseGradients:
    """The case as a step's gradients. Where the method looks at several batches, the earlier ones differ from the last,
    in a way that changes with the tasks' order and size as the case does; not ``apart``: they are the same."""
    rows = case.jacobian
    earlier = [rows + 0.2 * rows.roll(1 + b, dims=1) if apart else rows for b in range(method.batches - 1)]
    return DenseGradients(rows, case.losses, earlier=earlier)


def advance(method: AnyMethod, case: Case, state: Any, at: Step, *, apart: bool = True) -> tuple[Tensor, Any, str]:
    """One step: the shared gradient [P] that the method writes, its next state, its word."""
    grads = gradients(method, case, apart=apart)
    if method.outer_batches:
        state = method.look_ahead(LinearAhead(case.jacobian), state, at)
    state, status = method.step(grads, state, at)
    if method.observes:  # a batch whose tasks improved, each by another part
        part = torch.linspace(0.9, 0.99, case.tasks, dtype=torch.float64)
        state = method.observe(grads.losses, Losses(grads.losses * part), state, at)
    return grads.direction(), state, status


def direction(method: AnyMethod, case: Case, seed: int = 0, *, apart: bool = True) -> Tensor:
    """The shared gradient [P] of the first step."""
    return advance(method, case, method.init(case.tasks), Step(seed=seed), apart=apart)[0]


def weights(method: AnyMethod, case: Case, seed: int = 0) -> Tensor | None:
    """The weights [K] of the first step; None for methods that are no weighting."""
    grads = gradients(method, case)
    method.step(grads, method.init(case.tasks), Step(seed=seed))
    return grads.weights


def sizes(method: AnyMethod) -> tuple[int, ...]:
    """How many tasks to try."""
    return (1,) if method.single_task else (1, 2, 3, 7)
