from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt

from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method
from mtlfleet.methods.private import Private

FLOOR = -10.0  # of s, once negative losses are allowed: they pull s to minus infinity


@method("uw")
@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyWeighting(LossWeighting[Private]):
    r"""Task weights from learned homoscedastic uncertainties.

    ``lr_s``: learning rate of s in an Adam of its own, without weight decay. ``s_init``: where s starts.
    ``allow_negative``: accept negative losses, with s kept above -10.

    Math        :math:`L = \sum_k \tfrac12 (e^{-s_k} \ell_k + s_k)`, :math:`\alpha_k = \tfrac12 e^{-s_k}`,
                :math:`\partial L / \partial s_k = \tfrac12 (1 - e^{-s_k} \ell_k)`; stationary at :math:`s_k = \ln
                \ell_k`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: s ``[K]`` and its Adam moments.
    Source      Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018.
    Departures  The regression form for every task. s has its own optimizer (some codes train it with the model's,
                weight decay included). A negative loss is refused, as the objective has no minimum there.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("uw", torch.eye(2), torch.tensor([1.0, 4.0]))
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    lr_s: Annotated[float, Gt(0)] = 0.025
    s_init: float = 0.0
    allow_negative: bool = False

    def init(self, tasks: int) -> Private:
        return Private.start(torch.full((tasks,), self.s_init, dtype=torch.float64))

    def weigh(self, losses: Losses, state: Private, at: Step) -> Decision:
        """Weights of the present s; the next state has s moved along its gradient at these losses.

        Raises OutOfDomain for a negative loss unless ``allow_negative``.
        """
        if (losses < 0).any() and not self.allow_negative:
            raise OutOfDomain(
                f"uw: a task's loss is negative at step {at.number}: {losses.tolist()}; its weight has no bound",
                help="set allow_negative: true (s is then kept above -10), or shift the loss",
            )
        precision = torch.exp(-state.value)
        after = state.descend(0.5 * (1.0 - precision * losses), self.lr_s)
        if self.allow_negative:
            after = Private(after.value.clamp_min(FLOOR), after.first, after.second, after.count)
        return Decision(Weights(0.5 * precision), after)
