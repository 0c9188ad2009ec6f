from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from mtlfleet.linalg.gram import Array
from mtlfleet.linalg.simplex import towards_mean_by_steps
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """The weights [K] of the last step, summing to one, before the mean is added."""

    weights: Tensor


@method("sdmgrad_os")
@dataclass(frozen=True, slots=True, kw_only=True)
class SDMGradSampled(GramWeighting[Direction]):
    r"""The direction of sdmgrad from a random part of the tasks, the others' gradients counted as zero.

    ``sampled``: how many tasks a step takes on average; with more than there are, all. ``lam``: how strongly the
    direction is held near the mean. ``iterations``, ``lr``, ``momentum``: of the projected gradient steps from the last
    step's weights.

    Math        Each task with probability n / K, at least one; w moves along :math:`G (w + \lambda / K)` of the sampled
                rows; :math:`d = (K / n)\, J^T (w + \lambda / K) / (1 + \lambda)`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: w ``[K]``; draws are keyed by (seed, step).
    Source      Xiao, Ban and Ji, Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
                Algorithms, NeurIPS 2023 (objective sampling, for reinforcement learning).
    Departures  All task gradients are taken, so sampling saves no backward pass here, and task-specific parameters of
                tasks left out train on. No exact solver: zero rows would take all weight. The scale has no floor of
                0.0001.
    Properties  none

    >>> from mtlfleet import methods
    >>> methods.weights("sdmgrad_os", torch.eye(3), sampled=1)
    tensor([0.3750, 0.3750, 0.0000], dtype=torch.float64)
    """

    sampled: Annotated[int, Ge(1)] = 8
    lam: Annotated[float, Ge(0)] = 0.6
    iterations: Annotated[int, Ge(1)] = 20
    lr: Annotated[float, Gt(0)] = 10.0
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.5

    def init(self, tasks: int) -> Direction:
        return Direction(torch.full((tasks,), 1.0 / tasks, dtype=torch.float64))

    def weigh(self, gram: Gram, losses: Losses, state: Direction, at: Step) -> Decision:  # noqa: ARG002
        tasks = len(gram)
        part = min(self.sampled / tasks, 1.0)
        inside = self._drawn(tasks, part, at)
        posed = as_array(gram) * inside[:, None] * inside[None, :]
        w = towards_mean_by_steps(
            posed, self.lam, as_array(state.weights), lr=self.lr, momentum=self.momentum, iterations=self.iterations
        )
        weights = inside * (w + self.lam / tasks) / ((1.0 + self.lam) * part)
        return Decision(as_weights(weights), Direction(as_weights(np.copy(w))))

    def _drawn(self, tasks: int, part: float, at: Step) -> Array:
        """Ones for the tasks of this step, zeros for the others."""
        generator = at.generator("sdmgrad_os")
        while True:
            inside = torch.rand(tasks, generator=generator, dtype=torch.float64) < part
            if inside.any():
                return as_array(inside)
