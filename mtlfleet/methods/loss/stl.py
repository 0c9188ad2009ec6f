from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method


@method("stl")
@dataclass(frozen=True, slots=True, kw_only=True)
class SingleTask(LossWeighting[None]):
    r"""One task on its own: the reference that every multi-task percentage is taken against.

    A study runs it once per task, each run with its own model, tuning budget and selection by that task's own metric.

    Math        :math:`L = \ell`.
    Shapes      losses ``[1]`` -> weights ``[1]``; state: none.
    Source      Common practice; compare Maninis et al., Attentive Single-Tasking of Multiple Tasks, CVPR 2019.
    Departures  None.
    Properties  common_scaling

    >>> from mtlfleet import methods
    >>> methods.weights("stl", torch.tensor([[3.0, 4.0]]))
    tensor([1.], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "tasks"

    single_task: ClassVar[bool] = True

    def init(self, tasks: int) -> None:
        """Raises OutOfDomain for more than one task."""
        if tasks != 1:
            raise OutOfDomain(
                f"stl trains one task at a time; found {tasks}",
                help="in a study `use: stl` makes one trial per task; for all tasks together use `sum`",
            )

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        self.init(len(losses))
        return Decision(Weights(torch.ones(1, dtype=torch.float64)), None)
