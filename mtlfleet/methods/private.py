"""A method's own parameters: K numbers trained beside the model by an Adam of their own, held as a value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Private:
    """``value`` [K] float64 with Adam's two moments and step count. No weight decay, no schedule, no hidden
    optimizer."""

    value: Tensor
    first: Tensor
    second: Tensor
    count: int

    @classmethod
    def start(cls, value: Tensor) -> Private:
        value = value.to(torch.float64)
        return cls(value, torch.zeros_like(value), torch.zeros_like(value), 0)

    def descend(
        self, gradient: Tensor, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> Private:
        """The parameters after one Adam step (Kingma and Ba, ICLR 2015) along ``gradient`` [K]."""
        count = self.count + 1
        first = betas[0] * self.first + (1.0 - betas[0]) * gradient
        second = betas[1] * self.second + (1.0 - betas[1]) * gradient.square()
        mean, spread = first / (1.0 - betas[0] ** count), second / (1.0 - betas[1] ** count)
        return Private(self.value - lr * mean / (spread.sqrt() + eps), first, second, count)
