from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from mtlfleet.linalg.barrier import bargain
from mtlfleet.linalg.gram import Array, clip, norms, unit
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, TaskGradients, Weights, method


@dataclass(frozen=True, slots=True, eq=False)
class Bargain:
    """The last weights [K] agreed on, and how many steps have used them (0: none yet)."""

    weights: Tensor
    used: int


@method("nash_mtl")
@dataclass(frozen=True, slots=True, kw_only=True)
class NashMTL(GramWeighting[Bargain]):
    r"""The Nash bargaining solution between tasks: each gains, relatively, as much as the others lose.

    ``max_norm``: the update's norm is cut there; None or 0 is no limit. ``update_weights_every``: solve at every n-th
    step and reuse the weights in between, where a step then costs one backward. ``heads``: whether task-specific
    parameters see their weight.

    Math        :math:`\alpha > 0` with :math:`(G \alpha)_k = 1 / \alpha_k`; hence :math:`\|d\| = \sqrt K` before the
                cut.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: the last weights ``[K]`` and their age.
    Source      Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.
    Departures  Damped Newton to rounding, where the authors' sequence of convex programs can stop far off at unequal
                gradient norms. Pareto stationary gradients have no solution: weights are cut at :math:`\|\alpha \circ
                n\| = 10^4` (``stationary``). Zero gradients are left out (``zero_gradient``). Reused weights
                (``reused``) keep the cut of the step that found them. ``nash_mtl@official`` weights the heads, after
                the cut, where the authors cut shared parameters only.
    Properties  permutation, positive_scaling, non_conflict

    >>> from mtlfleet import methods
    >>> methods.weights("nash_mtl", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), max_norm=None)
    tensor([1.8478, 1.3066], dtype=torch.float64)
    """

    max_norm: Annotated[float, Ge(0)] | None = 1.0
    update_weights_every: Annotated[int, Ge(1)] = 1
    heads: Literal["unweighted", "weighted"] = "unweighted"  # type: ignore[misc]  # a class trait elsewhere, see Method

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "official": {"max_norm": 1.0, "update_weights_every": 1, "heads": "weighted"},
    }

    def init(self, tasks: int) -> Bargain:
        return Bargain(torch.zeros(tasks, dtype=torch.float64), 0)

    def step(self, grads: TaskGradients, state: Bargain, at: Step) -> tuple[Bargain, str]:
        if self._reuses(state):
            grads.apply(Weights(state.weights))
            return Bargain(state.weights, state.used + 1), "reused"
        return GramWeighting.step(self, grads, state, at)

    def weigh(self, gram: Gram, losses: Losses, state: Bargain, at: Step) -> Decision:  # noqa: ARG002
        if self._reuses(state):
            return Decision(Weights(state.weights), Bargain(state.weights, state.used + 1), "reused")
        g = as_array(gram)
        found, status = _agree(g)
        weights = as_weights(clip(found, g, self.max_norm))
        return Decision(weights, Bargain(weights, 1), status)

    def _reuses(self, state: Bargain) -> bool:
        return 0 < state.used < self.update_weights_every


def _agree(g: Array) -> tuple[Array, str]:
    size = norms(g)
    alive = np.flatnonzero(size)
    weights = np.zeros(len(g))
    if not len(alive):
        return weights, "stationary"
    b, solved = bargain(unit(g, size)[np.ix_(alive, alive)])
    weights[alive] = b / size[alive]
    return weights, "stationary" if not solved else "ok" if len(alive) == len(g) else "zero_gradient"
