from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from mtlfleet.methods.base import OptimizerState, Rows, Step, TaskGradients, method
from mtlfleet.methods.shards import beside

DOMINANT = 0.8  # of a parameter's updates, above which they are called one task's


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Per task and coordinate [K, n], this rank's: running mean and square, and the running squared update.

    [K, 0] what is not kept, and everything before the first step. ``dominance`` [2, K]: of all parameters that move, on
    all ranks, the mean share of a task, and the part that it dominates.
    """

    count: int
    first: Tensor
    second: Tensor
    updates: Tensor
    dominance: Tensor

    def shares(self) -> Tensor:
        """Dominance [K, n]: each task's part of the squared updates of a coordinate; 1/K where nothing moved it."""
        total = self.updates.sum(dim=0)
        return torch.where(total > 0, self.updates / total, 1.0 / len(self.updates))


@method("adatask")
@dataclass(frozen=True, slots=True, kw_only=True)
class AdaTask(OptimizerState[Moments]):
    r"""An adaptive optimizer with moments of its own for each task, so that none of them drowns in a shared one.

    ``rule``: ``adam``, ``adagrad`` or ``rmsprop``. ``beta1``, ``beta2``: decay of the mean and of the square (``adam``;
    ``rmsprop`` uses ``beta2``). ``eps``: added to the root. ``dominance_beta``: decay of the accumulated updates AU,
    which tell which task moves which parameter (``Moments.shares``), at the cost of K numbers per parameter and a sum
    over ranks of 2 K + 1; None keeps none.

    Math        ``adam``: :math:`d = \sum_k \hat m_k / (\sqrt{\hat v_k} + \epsilon)`; ``adagrad``: :math:`\sum_k g_k /
                (\sqrt{\sum_t g_k^2} + \epsilon)`; ``rmsprop``: the same with a running mean of squares.
    Shapes      rows ``[K, n]`` -> update ``[n]``; state: up to three times ``[K, n]`` and a count. With
                ``dominance_beta`` reports ``au_share``, a task's mean part of AU, and ``au_dominant``, the part of the
                parameters where that is above 0.8.
    Source      Yang et al., AdaTask: A Task-Aware Adaptive Learning Rate Approach to Multi-Task Learning, AAAI 2023.
    Departures  The update is written as gradient, to be applied by plain SGD (anything else is refused by the trainer);
                task-specific parameters are then also trained by plain SGD, where the authors use Adam. A task absent
                from a batch counts as a zero gradient and its moments decay. The rate of the dominance average is ours.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.combine("adatask", torch.tensor([[1.0, -5.0], [0.1, 2.0]]))
    tensor([2., 0.])
    """

    weight_sum: ClassVar[str] = "none"

    owns_update: ClassVar[bool] = True
    shards: ClassVar[tuple[str, ...]] = ("first", "second", "updates")

    rule: Literal["adam", "adagrad", "rmsprop"] = "adam"
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    eps: Annotated[float, Gt(0)] = 1e-8
    dominance_beta: Annotated[float, Ge(0), Le(1)] | None = None

    def init(self, tasks: int) -> Moments:
        empty = torch.zeros(tasks, 0)
        return Moments(0, empty, empty, empty, torch.zeros(2, tasks, dtype=torch.float64))

    def step(self, grads: TaskGradients, state: Moments, at: Step) -> tuple[Moments, str]:
        state, word = OptimizerState.step(self, grads, state, at)
        if self.dominance_beta is None:
            return state, word
        shares = state.shares()[:, state.updates.sum(dim=0) > 0].to(torch.float64)  # padding never moves
        told = torch.stack([shares, (shares > DOMINANT).to(shares)]).sum(dim=2).flatten()
        told = grads.total(torch.cat([told, told.new_tensor([shares.shape[1]])]).cpu())
        return replace(state, dominance=(told[:-1] / told[-1].clamp_min(1)).view(2, -1)), word

    def report(self, state: Moments) -> Mapping[str, Tensor]:
        if self.dominance_beta is None:
            return {}
        return {"au_share": state.dominance[0], "au_dominant": state.dominance[1]}

    def update(self, rows: Rows, state: Moments, at: Step) -> tuple[Tensor, Moments]:  # noqa: ARG002
        count, first, second = state.count + 1, state.first, beside(state.second, rows)
        if self.rule == "adam":
            first = self.beta1 * beside(state.first, rows) + (1.0 - self.beta1) * rows
            second = self.beta2 * second + (1.0 - self.beta2) * rows.square()
            root = (second / (1.0 - self.beta2**count)).sqrt_().add_(self.eps)
            parts = first / (1.0 - self.beta1**count) / root
        else:
            kept, added = (1.0, 1.0) if self.rule == "adagrad" else (self.beta2, 1.0 - self.beta2)
            second = kept * second + added * rows.square()
            parts = rows / (second.sqrt() + self.eps)
        updates = state.updates
        if self.dominance_beta is not None:
            updates = self.dominance_beta * beside(updates, rows) + (1.0 - self.dominance_beta) * parts.square()
        return parts.sum(dim=0), Moments(count, first, second, updates, state.dominance)
