from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.history import LossHistory


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

    >>> import torch
    >>> dwa = DynamicWeightAverage()
    >>> state = dwa.init(2)
    >>> for epoch, losses in enumerate([[2.0, 1.0], [1.0, 1.0], [9.0, 9.0]]):
    ...     weights, state, _ = dwa.weigh(Losses(torch.tensor(losses, dtype=torch.float64)), state, Step(epoch, epoch))
    >>> weights
    tensor([0.8756, 1.1244], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "tasks"

    temperature: Annotated[float, Gt(0)] = 2.0

    def init(self, tasks: int) -> LossHistory:
        return LossHistory.start(tasks)

    def weigh(self, losses: Losses, state: LossHistory, at: Step) -> Decision:
        state = state.at(at.epoch)
        weights, status = state.rates(self.temperature)
        return Decision(Weights(weights), state.plus(losses), status)
