from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from mtlfleet.linalg.gram import Array, is_stationary, length
from mtlfleet.linalg.least_distance import lift
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, OutOfDomain, Step, method


@dataclass(frozen=True, slots=True, eq=False)
class Squares:
    """Running means [K] of the squared gradient norms, not yet corrected for their start, and of how many steps."""

    mean: Tensor
    count: int


@method("pcd")
@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityConstrainedDescent(GramWeighting[Squares]):
    r"""The direction nearest to one task's gradient that gives each other task a guaranteed part of its progress.

    ``primary``: which task, by its number in the data set, from 0. ``tau``: the part of the progress along its own
    gradient that each other task is given. ``beta``: memory of the running mean of squared norms; ``eps``: added to it.

    Math        :math:`\tilde d = \arg\min \|d - \tilde g_1\|` with :math:`\tilde g_j d \ge \tau \|\tilde g_j\|^2` for
                the others, :math:`\tilde g_k = g_k / \sqrt{\hat v_k + \epsilon}`, :math:`\hat v_k` the running mean of
                :math:`\|g_k\|^2`, corrected for its start; then :math:`d = \tilde d\, \|g_1\| / \|\tilde d\|`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: squared norms ``[K]`` and a count.
    Source      Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical Multi-Objective
                Optimization, TMLR 2026.
    Departures  Solved by non-negative least squares, where the authors enumerate sets of constraints. Constraints that
                no direction meets are dropped (``infeasible``); a primary gradient of zero
                (``stationary_by_zero_grad``) or a direction of zero (``stationary``) gives no update.
    Properties  none

    >>> from mtlfleet import methods
    >>> methods.weights("pcd", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), tau=0.0)  # off the other's conflict, as long
    tensor([1.4142, 0.7071], dtype=torch.float64)
    """

    primary: Annotated[int, Ge(0)] = 0
    tau: Annotated[float, Ge(0), Le(1)] = 0.02
    beta: Annotated[float, Ge(0), Lt(1)] = 0.999
    eps: Annotated[float, Ge(0)] = 1e-8

    def init(self, tasks: int) -> Squares:
        """Raises OutOfDomain when there is no task of that number."""
        if self.primary >= tasks:
            raise OutOfDomain(
                f"pcd: there is no task number {self.primary}: the first of {tasks} is number 0",
                help="set primary to the place of a task in the data set's list",
            )
        return Squares(torch.zeros(tasks, dtype=torch.float64), 0)

    def weigh(self, gram: Gram, losses: Losses, state: Squares, at: Step) -> Decision:  # noqa: ARG002
        squares = gram.diagonal().to(torch.float64)
        after = Squares(self.beta * state.mean + (1.0 - self.beta) * squares, state.count + 1)
        spread = as_array(after.mean / (1.0 - self.beta**after.count)) + self.eps
        scale = np.divide(1.0, np.sqrt(spread), out=np.zeros_like(spread), where=spread > 0)
        found, status = self._nearest(as_array(gram), scale)
        return Decision(as_weights(found), after, status)

    def _nearest(self, g: Array, scale: Array) -> tuple[Array, str]:
        weights, status = np.zeros(len(g)), "ok"
        if not g[self.primary, self.primary] > 0:
            return weights, "stationary_by_zero_grad"
        posed = g * scale[:, None] * scale[None, :]
        others = np.delete(np.arange(len(g)), self.primary)
        weights[self.primary] = 1.0
        added = lift(posed[np.ix_(others, others)], self.tau * posed[others, others] - posed[others, self.primary])
        if added is None:
            status = "infeasible"
        else:
            weights[others] = added
        if is_stationary(weights, posed):
            return np.zeros(len(g)), "stationary"
        return weights * scale * (np.sqrt(g[self.primary, self.primary]) / length(weights, posed)), status
