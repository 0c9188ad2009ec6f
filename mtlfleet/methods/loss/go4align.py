from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from mtlfleet.linalg.groups import group_line
from mtlfleet.methods.arrays import as_array
from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method


@dataclass(frozen=True, slots=True, eq=False)
class Risks:
    """Logarithms [K] of the tasks' risk indicators p, which sum to one."""

    logs: Tensor


@method("go4align")
@dataclass(frozen=True, slots=True, kw_only=True)
class GO4Align(LossWeighting[Risks]):
    r"""Losses brought to one scale and weighted by their history, then one weight for each group of alike tasks.

    ``groups``: how many, at most. ``eta``: how much a large loss lowers a task's indicator for good.

    Math        :math:`p_k \propto p_k e^{-\eta \ell_k}`, :math:`q_k = p_k \sum_j \ell_j / \ell_k`; tasks with like q
                form groups, :math:`\alpha_k` is the mean of q over k's group.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: ln p ``[K]``.
    Source      Shen et al., GO4Align: Group Optimization for Multi-Task Alignment, NeurIPS 2024.
    Departures  Groups by exact one-dimensional k-means, where the authors' code runs k-means from a random start. A
                loss that is not positive is refused.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("go4align", torch.eye(3), torch.tensor([1.0, 4.0, 5.0]), eta=0.0)
    tensor([3.3333, 0.7500, 0.7500], dtype=torch.float64)
    """

    groups: Annotated[int, Ge(1)] = 2
    eta: Annotated[float, Ge(0)] = 1e-4

    def init(self, tasks: int) -> Risks:
        return Risks(torch.full((tasks,), 1.0 / tasks, dtype=torch.float64).log())

    def weigh(self, losses: Losses, state: Risks, at: Step) -> Decision:
        """Raises OutOfDomain for a loss that is not positive."""
        if (losses <= 0).any():
            raise OutOfDomain(
                f"go4align: a loss is what others are compared with; at step {at.number} found {losses.tolist()}",
                help="shift the loss to be positive",
            )
        logs = torch.log_softmax(state.logs - self.eta * losses, dim=0)
        each = logs.exp() * (losses.sum() / losses)
        group = torch.from_numpy(group_line(as_array(each), self.groups))
        size = torch.bincount(group, minlength=self.groups)
        total = torch.zeros(len(size), dtype=torch.float64).index_add_(0, group, each)
        return Decision(Weights((total / size.clamp_min(1))[group]), Risks(logs))
