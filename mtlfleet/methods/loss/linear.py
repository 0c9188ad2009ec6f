from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method

INVERSE = "inverse_initial_loss"


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """The losses [K] of the first step; zeros before it."""

    losses: Tensor


@method("linear")
@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(LossWeighting[Start | None]):
    r"""Static task weights: plain scalarization, the method whose weights a study sweeps.

    ``weights``: one non-negative number per task, in the order of the data set's tasks; None means equal;
    ``inverse_initial_loss`` divides each loss by its value at the first step. Only their ratios matter.

    Math        :math:`L = \sum_k \alpha_k \ell_k`, :math:`\alpha_k = K w_k / \sum_j w_j`; :math:`w_k = 1 / \ell_k(0)`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: none, or the first losses ``[K]``.
    Source      Xin et al., Do Current Multi-Task Optimization Methods in Deep Learning Even Help?, NeurIPS 2022.
    Departures  Weights are scaled to sum K, so that a sweep over ratios is no sweep over learning rates.
    Properties  permutation, common_scaling, sum_to_tasks

    >>> from mtlfleet import methods
    >>> methods.weights("linear", torch.eye(2), weights=(3, 1))
    tensor([1.5000, 0.5000], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "tasks"

    weights: tuple[Annotated[float, Ge(0)], ...] | Literal["inverse_initial_loss"] | None = None

    presets: ClassVar[dict[str, dict[str, str]]] = {"inverse": {"weights": "inverse_initial_loss"}}

    def __post_init__(self) -> None:
        if self.weights is None or self.weights == INVERSE:
            return
        if isinstance(self.weights, str):
            raise OutOfDomain(
                f"linear: weights are numbers or `{INVERSE}`; found `{self.weights}`", help="see the docs"
            )
        given = tuple(float(w) for w in self.weights)
        if not all(math.isfinite(w) and w >= 0 for w in given) or sum(given) <= 0:
            raise OutOfDomain(
                f"linear: weights must be non-negative and not all zero; found {self.weights}",
                help="drop a task from the study instead of giving it a negative weight",
            )
        object.__setattr__(self, "weights", given)

    def init(self, tasks: int) -> Start | None:
        """Raises OutOfDomain when the number of weights is not the number of tasks."""
        if self.weights == INVERSE:
            return Start(torch.zeros(tasks, dtype=torch.float64))
        if self.weights is not None and len(self.weights) != tasks:
            raise OutOfDomain(
                f"linear: {len(self.weights)} weights {self.weights} for {tasks} task{'s' if tasks != 1 else ''}",
                help="give one weight per task, in the order of the data set's tasks",
            )
        return None

    def weigh(self, losses: Losses, state: Start | None, at: Step) -> Decision:
        """Raises OutOfDomain for a first loss that is not positive, where weights are its inverse."""
        tasks = len(losses)
        if state is None:
            self.init(tasks)
            given = torch.tensor(self.weights or (1.0,) * tasks, dtype=torch.float64)
            return Decision(Weights(given * (tasks / given.sum())), None)
        start = state if state.losses.any() else Start(losses.clone())
        if (start.losses <= 0).any():
            raise OutOfDomain(
                f"linear: no inverse of a first loss that is not positive; at step {at.number} found {losses.tolist()}",
                help="shift the loss to be positive, or give the weights as numbers",
            )
        inverse = start.losses.min() / start.losses
        return Decision(Weights(inverse * (tasks / inverse.sum())), start)
