from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from mtlfleet.linalg.fairness import fair_weights
from mtlfleet.linalg.gram import Array, clip, norms
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


@method("fairgrad")
@dataclass(frozen=True, slots=True, kw_only=True)
class FairGrad(GramWeighting[None]):
    r"""An alpha-fair division of the improvement between tasks.

    ``alpha``: 0 adds the gradients, 1 is the Nash bargaining solution, larger serves the worst-off task more.
    ``scale``: ``native`` weights, or those times K (``times_k``). ``max_norm``: the update's norm is cut there; None is
    no limit. ``heads``: whether task-specific parameters see their weight.

    Math        :math:`w > 0` with :math:`(G w)_k = w_k^{-1/\alpha}`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none.
    Source      Ban and Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024.
    Departures  Damped Newton to rounding, where the authors run a bounded least-squares solver. Pareto stationary
                gradients have no solution: weights are cut (``stationary``); zero gradients are left out
                (``zero_gradient``). ``fairgrad@official``: alpha 2, times K, norm cut at 1; ``fairgrad@libmtl``:
                alpha 1, heads weighted. Another computation's cosine of 0.413 between the updates of two tasks before
                and after their gradients are multiplied by 3 and 0.2 is 0.972 by this equation (and by scipy).
    Properties  permutation, non_conflict

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("fairgrad", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), alpha=2.0)
    tensor([2.1741, 1.4958], dtype=torch.float64)
    """

    alpha: Annotated[float, Ge(0)] = 2.0
    scale: Literal["native", "times_k"] = "native"
    max_norm: Annotated[float, Gt(0)] | None = None
    heads: Literal["unweighted", "weighted"] = "unweighted"  # type: ignore[misc]  # a class trait elsewhere, see Method

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "official": {"alpha": 2.0, "scale": "times_k", "max_norm": 1.0},
        "libmtl": {"alpha": 1.0, "heads": "weighted"},
    }

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        g = as_array(gram)
        weights, status = self._divide(g)
        if self.scale == "times_k":
            weights = weights * len(g)
        return Decision(as_weights(clip(weights, g, self.max_norm)), None, status)

    def _divide(self, g: Array) -> tuple[Array, str]:
        if self.alpha == 0:
            return np.ones(len(g)), "ok"
        alive = np.flatnonzero(norms(g))
        weights = np.zeros(len(g))
        if not len(alive):
            return weights, "stationary"
        weights[alive], solved = fair_weights(g[np.ix_(alive, alive)], self.alpha)
        return weights, "stationary" if not solved else "ok" if len(alive) == len(g) else "zero_gradient"
