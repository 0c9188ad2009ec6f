"""Random groups of tasks that take turns on a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlfleet.methods.base import Step


def turns(tasks: int, size: int) -> int:
    """How many groups of ``size`` tasks there are; the last one may be smaller."""
    return -(-tasks // size)


def group_weights(tasks: int, size: int, at: Step) -> Tensor:
    """[K]: one for the tasks whose turn it is at this step, else zero. The groups are drawn once per seed."""
    order = torch.randperm(tasks, generator=Step(seed=at.seed).generator("grouping"))
    turn = at.number % turns(tasks, size)
    weights = torch.zeros(tasks, dtype=torch.float64)
    weights[order[turn * size : (turn + 1) * size]] = 1.0
    return weights
