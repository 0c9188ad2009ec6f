from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.domain import floored


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """Losses [K] summed over the epoch that they are later compared with, and over how many steps."""

    total: Tensor
    count: int


@method("igb")
@dataclass(frozen=True, slots=True, kw_only=True)
class ImprovableGapBalancing(LossWeighting[Base]):
    r"""Logarithms of the losses, weighted by how much of an early loss is still there to be improved.

    ``base_epoch``: the epoch, from 0, whose mean losses are the measure; up to its end all weights are one.

    Math        :math:`L = \sum_k w_k \ln \ell_k`, :math:`w = K\,\mathrm{softmax}(\ell / \bar\ell)` with
                :math:`\bar\ell` the mean losses of the base epoch; :math:`\alpha_k = w_k / \ell_k`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: summed losses ``[K]`` and their number.
    Source      Dai, Fei and Lu, Improvable Gap Balancing for Multi-Task Learning, UAI 2023 (IGBv1).
    Departures  None in IGBv1; the second version, which learns its weights by reinforcement, is not here. Losses below
                1e-20 count as that; steps up to the end of the base epoch say ``warmup``.
    Properties  permutation, loss_scaling

    >>> igb, state = ImprovableGapBalancing(), Base(torch.tensor([2.0, 4.0], dtype=torch.float64), 1)
    >>> igb.weigh(Losses(torch.tensor([1.0, 4.0], dtype=torch.float64)), state, Step(9, 2)).weights
    tensor([0.7551, 0.3112], dtype=torch.float64)
    """

    base_epoch: Annotated[int, Ge(0)] = 1

    def init(self, tasks: int) -> Base:
        return Base(torch.zeros(tasks, dtype=torch.float64), 0)

    def weigh(self, losses: Losses, state: Base, at: Step) -> Decision:
        """Raises OutOfDomain for a negative loss, which has no logarithm."""
        positive, word = floored("igb", losses, at, 1e-20)
        if at.epoch <= self.base_epoch or not state.count:
            if at.epoch == self.base_epoch:
                state = Base(state.total + positive, state.count + 1)
            return Decision(Weights(1.0 / positive), state, "warmup" if word == "ok" else word)
        gap = positive * (state.count / state.total)
        return Decision(Weights(len(losses) * torch.softmax(gap, dim=0) / positive), state, word)
