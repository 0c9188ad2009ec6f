from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from mtlfleet.methods import restrained
from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.domain import refuse_negative
from mtlfleet.methods.private import Private


@method("rruw")
@dataclass(frozen=True, slots=True, kw_only=True)
class RestrainedUncertainty(LossWeighting[Private]):
    r"""Uncertainty weights whose scales may not all grow: their sizes are held to a fixed sum.

    ``lr_c``: learning rate of c in an Adam of its own, without weight decay. ``phi``: what the sizes of c are held to
    sum to.

    Math        :math:`L = \sum_k (1 + u_k) \ell_k + \ln(1 + c_k^2)` plus :math:`|\phi - \sum_k |c_k||`, with
                :math:`u_k = 1 / (K c_k^2)`; :math:`\alpha_k = 1 + u_k`; c starts at 1/K.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: c ``[K]`` and its Adam moments.
    Source      Song et al., Dynamic Restrained Uncertainty Weighting Loss for Multitask Learning of Vocal Expression,
                ICML ExVo workshop 2022 (the variant without dynamic weights).
    Departures  c is trained, which the authors' script forgets. \|c\| stays above 1e-3. Negative losses are refused.
    Properties  permutation

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("rruw", torch.eye(2), torch.tensor([1.0, 4.0]))
    tensor([3., 3.], dtype=torch.float64)
    """

    lr_c: Annotated[float, Gt(0)] = 0.025
    phi: float = 1.0

    def init(self, tasks: int) -> Private:
        return restrained.start(tasks)

    def weigh(self, losses: Losses, state: Private, at: Step) -> Decision:
        """Weights of the present c; the next state has c moved. Raises OutOfDomain for a negative loss."""
        refuse_negative("rruw", losses, at, "its scale has no bound")
        after = restrained.descend(state, losses, self.phi, self.lr_c)
        return Decision(Weights(1.0 + restrained.weights(state.value)), after)
