"""Epoch means of the losses, for methods that look at how fast each task learns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LossHistory:
    """Mean losses [K] of the last finished epoch and of the one before; sum and count of the running one."""

    epoch: int
    finished: int
    total: Tensor
    count: int
    last: Tensor
    before: Tensor

    @classmethod
    def start(cls, tasks: int) -> LossHistory:
        zero = torch.zeros(tasks, dtype=torch.float64)
        return cls(0, 0, zero, 0, zero, zero)

    def at(self, epoch: int) -> LossHistory:
        """The history at ``epoch``: a running epoch with another number is closed first."""
        if epoch == self.epoch or not self.count:
            return LossHistory(epoch, self.finished, self.total, self.count, self.last, self.before)
        mean = self.total / self.count
        return LossHistory(epoch, self.finished + 1, torch.zeros_like(mean), 0, mean, self.last)

    def plus(self, losses: Tensor) -> LossHistory:
        """With the losses of one more step of the running epoch."""
        return LossHistory(self.epoch, self.finished, self.total + losses, self.count + 1, self.last, self.before)

    def rates(self, temperature: float) -> tuple[Tensor, str]:
        """Weights K softmax(last / before / T), ones while two epochs are missing; and the word on their validity.

        A mean of zero gives ratio 1; a negative one has no meaning as a ratio: ``loss_not_positive``.
        """
        if self.finished < 2:
            return torch.ones_like(self.last), "ok"
        ratio = torch.where(self.before != 0, self.last / self.before, 1.0)
        status = "loss_not_positive" if (self.before < 0).any() or (self.last < 0).any() else "ok"
        return len(ratio) * torch.softmax(ratio / temperature, dim=0), status
