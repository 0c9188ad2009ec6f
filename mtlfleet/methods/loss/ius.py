from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.grouping import group_weights, turns


@method("ius")
@dataclass(frozen=True, slots=True, kw_only=True)
class IndividualUpdates(LossWeighting[None]):
    r"""Groups of tasks take turns: each batch is one optimizer step for every group.

    ``group_size``: tasks in a group, drawn at random once per seed; 1 lets every task step alone, all of them is
    ``sum``.

    Math        For each group m in turn, on the same samples, with a forward pass of its own: one step of the optimizer
                on :math:`\sum_{k \in m} \ell_k`; one optimizer serves all groups.
    Shapes      losses ``[K]`` -> weights ``[K]`` of zeros and ones; state: none, the groups are keyed by the seed.
    Source      Pascal et al., Improved Optimization Strategies for Deep Multi-Task Networks, 2021 (individual update
                sequences).
    Departures  A step of the recipe is a batch, so n groups make n optimizer steps of it, and running statistics move n
                times, as in the authors' code. What a group does not reach rests in its turn: no momentum moves it.
    Properties  none

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("ius", torch.eye(3), group_size=2)  # the first group's turn
    tensor([0., 1., 1.], dtype=torch.float64)
    """

    group_size: Annotated[int, Ge(1)] = 1

    def turns(self, tasks: int) -> int:
        return turns(tasks, self.group_size)

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        return Decision(Weights(group_weights(len(losses), self.group_size, at)), None)
