"""The smooth maximum of task losses, on the losses themselves or on their logarithms beside a nadir."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Nadir:
    """Losses [K] summed over the epoch that measures the reference point, and over how many steps."""

    total: Tensor
    count: int

    @classmethod
    def start(cls, tasks: int) -> Nadir:
        return cls(torch.zeros(tasks, dtype=torch.float64), 0)


def log_weights(losses: Tensor, state: Nadir, epoch: int, mu: float, warmup_epochs: int) -> tuple[Tensor, Nadir, str]:
    r"""Weights [K] of the sum of logarithms up to and including epoch ``warmup_epochs``, whose mean losses become z;
    then of :math:`K \mu \log \sum_k (\ell_k / z_k)^{1/\mu}`. A run that never saw that epoch stays at the former."""
    if epoch <= warmup_epochs or not state.count:
        if epoch == warmup_epochs:
            state = Nadir(state.total + losses, state.count + 1)
        return 1.0 / losses, state, "warmup"
    excess = torch.log(losses) - torch.log(state.total / state.count)
    return len(losses) * torch.softmax(excess / mu, dim=0) / losses, state, "ok"
