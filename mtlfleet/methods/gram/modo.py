from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from mtlfleet.linalg.simplex import nearest_shares
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import OwnStep, Step, TaskGradients, method


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """The weights [K], summing to one."""

    weights: Tensor


@method("modo")
@dataclass(frozen=True, slots=True, kw_only=True)
class MoDo(OwnStep[Shares]):
    r"""Weights that follow the shortest convex combination by small steps, unbiased: from two independent batches.

    ``gamma``: step size of the weights; ``rho``: their pull towards zero, hence towards equality. ``batches``: with 3,
    the third is combined; with 2, the mean of both that the weights were found from.

    Math        :math:`w \leftarrow \Pi_\Delta(w - \gamma (J_1 J_2^T w + \rho w))`, :math:`d = J_3^T w`, with two
                batches :math:`d = (J_1 + J_2)^T w / 2`; w starts at 1/K.
    Shapes      products of two batches ``[K, K]`` -> weights ``[K]``; state: w ``[K]``. Three batches a step, or two.
    Source      Chen, Fernando, Ying and Chen, Three-Way Trade-Off in Multi-Objective Learning: Optimization,
                Generalization and Conflict-Avoidance, NeurIPS 2023 and JMLR 2024.
    Departures  By default the form with three batches, as in LibMTL (``modo@libmtl``: gamma 0.001); that of the paper's
                analysis with two is ``modo@two_batches``. Task-specific parameters see the last batch, not the mean.
    Properties  permutation, sum_to_one

    >>> from mtlfleet import methods
    >>> methods.weights("modo", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), rho=0.0)
    tensor([0.5250, 0.4750], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "one"

    gamma: Annotated[float, Ge(0)] = 0.1
    rho: Annotated[float, Ge(0)] = 0.1
    batches: Literal[2, 3] = 3  # type: ignore[misc]  # a class trait elsewhere, see Method

    presets: ClassVar[dict[str, dict[str, Any]]] = {"libmtl": {"gamma": 0.001}, "two_batches": {"batches": 2}}

    def init(self, tasks: int) -> Shares:
        return Shares(torch.full((tasks,), 1.0 / tasks, dtype=torch.float64))

    def step(self, grads: TaskGradients, state: Shares, at: Step) -> tuple[Shares, str]:  # noqa: ARG002
        w = state.weights
        slope = grads.cross_gram(0, 1) @ w + self.rho * w
        weights = as_weights(nearest_shares(as_array(w - self.gamma * slope)))
        if self.batches == 2:
            grads.apply_mean(weights)
        else:
            grads.apply(weights)
        return Shares(weights), "ok"
