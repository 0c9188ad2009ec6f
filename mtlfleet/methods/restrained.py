"""Uncertainty weights whose learned scales are restrained to a fixed sum of sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlfleet.methods.private import Private

SMALLEST = 1e-3  # of |c|: the weight is 1 / (K c^2)


def start(tasks: int) -> Private:
    """c = 1/K for every task."""
    return Private.start(torch.full((tasks,), 1.0 / tasks, dtype=torch.float64))


def weights(c: Tensor) -> Tensor:
    """1 / (K c_k^2) [K]."""
    return 1.0 / (len(c) * c.square())


def descend(state: Private, losses: Tensor, total: float, lr: float) -> Private:
    r"""c after an Adam step on :math:`\sum_k \ell_k / (K c_k^2) + \ln(1 + c_k^2)` and :math:`|\phi - \sum_k |c_k||`."""
    c = state.value
    slope = -2.0 * losses / (len(c) * c**3) + 2.0 * c / (1.0 + c.square())
    slope = slope - torch.sign(total - c.abs().sum()) * torch.sign(c)
    after = state.descend(slope, lr)
    value = torch.where(after.value < 0, -1.0, 1.0) * after.value.abs().clamp_min(SMALLEST)
    return Private(value, after.first, after.second, after.count)
