from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.grouping import group_weights, turns


@method("io")
@dataclass(frozen=True, slots=True, kw_only=True)
class IndependentOptimizers(LossWeighting[None]):
    r"""Groups of tasks take turns on each batch, each with an optimizer of its own over all parameters.

    ``group_size``: tasks in a group, drawn at random once per seed; all of them is ``sum``.

    Math        As ``ius``, but the moments of an adaptive optimizer, or its momentum, belong to one group: no other
                group's gradients touch them.
    Shapes      losses ``[K]`` -> weights ``[K]`` of zeros and ones; state: none here, an optimizer's for each group.
    Source      Pascal et al., Improved Optimization Strategies for Deep Multi-Task Networks, 2021 (independent
                optimizers).
    Departures  As ``ius``. Every optimizer follows the recipe's learning rate.
    Properties  none

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("io", torch.eye(3), group_size=2)  # the first group's turn
    tensor([0., 1., 1.], dtype=torch.float64)
    """

    own_optimizers: ClassVar[bool] = True

    group_size: Annotated[int, Ge(1)] = 1

    def turns(self, tasks: int) -> int:
        return turns(tasks, self.group_size)

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        return Decision(Weights(group_weights(len(losses), self.group_size, at)), None)
