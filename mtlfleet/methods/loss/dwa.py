from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method


@dataclass(frozen=True, slots=True, eq=False)
class LossHistory:
    """Mean losses [K] of the last finished epoch and of the one before; sum and count of the running one."""

    epoch: int
    finished: int
    total: Tensor
    count: int
    last: Tensor
    before: Tensor

    def at(self, epoch: int) -> LossHistory:
        """The history at ``epoch``: a running epoch with another number is closed first."""
        if epoch == self.epoch or not self.count:
            return LossHistory(epoch, self.finished, self.total, self.count, self.last, self.before)
        mean = self.total / self.count
        return LossHistory(epoch, self.finished + 1, torch.zeros_like(mean), 0, mean, self.last)

    def plus(self, losses: Tensor) -> LossHistory:
        return LossHistory(self.epoch, self.finished, self.total + losses, self.count + 1, self.last, self.before)


@method("dwa")
@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicWeightAverage(LossWeighting[LossHistory]):
    r"""Weights that favour the tasks whose loss fell least over the last two epochs.

    ``temperature``: larger is closer to equal weights.

    Math        :math:`r_k = \bar\ell_k(e-1) / \bar\ell_k(e-2)`, :math:`\alpha = K\,\mathrm{softmax}(r / T)`; 1 in the
                first two epochs.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: two epoch means, running sum and count.
    Source      Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019.
    Departures  None: epoch means of the unweighted losses (some codes use a window of steps). A mean of zero gives
                ratio 1; a negative one has no meaning as a ratio and is reported as ``loss_not_positive``.
    Properties  permutation, common_scaling, sum_to_tasks

    >>> dwa = DynamicWeightAverage()
    >>> state = dwa.init(2)
    >>> for epoch, losses in enumerate([[2.0, 1.0], [1.0, 1.0], [9.0, 9.0]]):
    ...     weights, state, _ = dwa.weigh(Losses(torch.tensor(losses, dtype=torch.float64)), state, Step(epoch, epoch))
    >>> weights
    tensor([0.8756, 1.1244], dtype=torch.float64)
    """

    temperature: Annotated[float, Gt(0)] = 2.0

    def init(self, tasks: int) -> LossHistory:
        zero = torch.zeros(tasks, dtype=torch.float64)
        return LossHistory(0, 0, zero, 0, zero, zero)

    def weigh(self, losses: Losses, state: LossHistory, at: Step) -> Decision:
        state = state.at(at.epoch)
        weights, status = torch.ones(len(losses), dtype=torch.float64), "ok"
        if state.finished >= 2:
            ratio = torch.where(state.before != 0, state.last / state.before, 1.0)
            weights = len(losses) * torch.softmax(ratio / self.temperature, dim=0)
            if (state.before < 0).any() or (state.last < 0).any():
                status = "loss_not_positive"
        return Decision(Weights(weights), state.plus(losses), status)
