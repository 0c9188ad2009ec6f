from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from mtlfleet.methods import restrained
from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.domain import refuse_negative
from mtlfleet.methods.history import LossHistory
from mtlfleet.methods.private import Private


@dataclass(frozen=True, slots=True, eq=False)
class Restraint:
    """The scales c and the epoch means of the losses."""

    scales: Private
    history: LossHistory


@method("druw")
@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicRestrainedUncertainty(LossWeighting[Restraint]):
    r"""Restrained uncertainty weights added to weights that follow the speed of learning.

    ``lr_c``: learning rate of c in an Adam of its own, without weight decay. ``phi``: what the sizes of c are held to
    sum to. ``temperature``: of the dynamic weights; larger is closer to equal.

    Math        :math:`L = \sum_k (w_k + u_k) \ell_k + \ln(1 + c_k^2)` plus :math:`|\phi - \sum_k |c_k||`, with
                :math:`u_k = 1 / (K c_k^2)`, w the weights of ``dwa``; :math:`\alpha_k = w_k + u_k`; c starts at 1/K.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: c ``[K]`` with its Adam moments, two epoch means, running sum.
    Source      Song et al., Dynamic Restrained Uncertainty Weighting Loss for Multitask Learning of Vocal Expression,
                ICML ExVo workshop 2022.
    Departures  c is trained and each task keeps its own dynamic weight, which the authors' script gets wrong. Epoch
                means, not single steps. \|c\| stays above 1e-3. Negative losses are refused.
    Properties  permutation

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("druw", torch.eye(2), torch.tensor([1.0, 4.0]))
    tensor([3., 3.], dtype=torch.float64)
    """

    lr_c: Annotated[float, Gt(0)] = 0.025
    phi: float = 1.0
    temperature: Annotated[float, Gt(0)] = 10.0

    def init(self, tasks: int) -> Restraint:
        return Restraint(restrained.start(tasks), LossHistory.start(tasks))

    def weigh(self, losses: Losses, state: Restraint, at: Step) -> Decision:
        """Weights of the present c; the next state has c moved. Raises OutOfDomain for a negative loss."""
        refuse_negative("druw", losses, at, "its scale has no bound")
        history = state.history.at(at.epoch)
        rates, status = history.rates(self.temperature)
        after = Restraint(restrained.descend(state.scales, losses, self.phi, self.lr_c), history.plus(losses))
        return Decision(Weights(rates + restrained.weights(state.scales.value)), after, status)
