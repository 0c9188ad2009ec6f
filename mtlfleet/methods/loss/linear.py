from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge

from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method


@method("linear")
@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(LossWeighting[None]):
    r"""Static task weights: plain scalarization, the method whose weights a study sweeps.

    ``weights``: one non-negative number per task, in the order of the data set's tasks; None means equal. Only their
    ratios matter.

    Math        :math:`L = \sum_k \alpha_k \ell_k`, :math:`\alpha_k = K w_k / \sum_j w_j`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: none.
    Source      Xin et al., Do Current Multi-Task Optimization Methods in Deep Learning Even Help?, NeurIPS 2022.
    Departures  Weights are scaled to sum K, so that a sweep over ratios is no sweep over learning rates.
    Properties  permutation, common_scaling, sum_to_tasks

    >>> from mtlfleet import methods
    >>> methods.weights("linear", torch.eye(2), weights=(3, 1))
    tensor([1.5000, 0.5000], dtype=torch.float64)
    """

    weights: tuple[Annotated[float, Ge(0)], ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        given = tuple(float(w) for w in self.weights)
        if not all(math.isfinite(w) and w >= 0 for w in given) or sum(given) <= 0:
            raise OutOfDomain(
                f"linear: weights must be non-negative and not all zero; found {self.weights}",
                help="drop a task from the study instead of giving it a negative weight",
            )
        object.__setattr__(self, "weights", given)

    def init(self, tasks: int) -> None:
        """Raises OutOfDomain when the number of weights is not the number of tasks."""
        if self.weights is not None and len(self.weights) != tasks:
            raise OutOfDomain(
                f"linear: {len(self.weights)} weights {self.weights} for {tasks} task{'s' if tasks != 1 else ''}",
                help="give one weight per task, in the order of the data set's tasks",
            )

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        tasks = len(losses)
        self.init(tasks)
        given = torch.tensor(self.weights or (1.0,) * tasks, dtype=torch.float64)
        return Decision(Weights(given * (tasks / given.sum())), None)
