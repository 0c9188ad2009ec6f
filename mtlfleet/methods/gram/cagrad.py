from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from mtlfleet.linalg.gram import Array, clip, is_stationary, length
from mtlfleet.linalg.maximin import worst_case_weights
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


@method("cagrad")
@dataclass(frozen=True, slots=True, kw_only=True)
class CAGrad(GramWeighting[None]):
    r"""The direction near the mean gradient that improves the worst-off task most.

    ``c``: radius of the ball around the mean gradient, in units of its norm. ``rescale``: 0 leaves the result, 1
    divides it by 1 + c^2, 2 by 1 + c. ``scale``: the update is like a ``mean`` or, times K, like a ``sum`` of
    gradients. ``max_norm``: the update's norm is cut there; None is no limit. ``stationary``: what to return where
    the problem has no direction of its own: the ``mean`` gradient or ``zero``.

    Math        :math:`\max_{\|d - g_0\| \le c \|g_0\|} \min_k g_k d`; with :math:`w = \arg\min_\Delta g_0 g_w + c
                \|g_0\| \|g_w\|`: :math:`\alpha_k = 1/K + c \|g_0\| w_k / \|g_w\|`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none.
    Source      Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021.
    Departures  An exact solver instead of SLSQP. Where :math:`g_w = 0` the authors divide by 1e-8; here the mean
                gradient is used and the step reported as ``stationary``. Presets: ``official_nyuv2``; ``nash`` (times
                K, norm cut at 1).
    Properties  permutation, common_scaling

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("cagrad", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), c=0.4)
    tensor([0.7000, 0.5000], dtype=torch.float64)
    """

    c: Annotated[float, Ge(0)] = 0.5
    rescale: Literal[0, 1, 2] = 0
    scale: Literal["mean", "sum"] = "mean"
    max_norm: Annotated[float, Gt(0)] | None = None
    stationary: Literal["mean", "zero"] = "mean"

    presets: ClassVar[dict[str, dict[str, float | int | str]]] = {
        "official_nyuv2": {"c": 0.4, "rescale": 1},
        "nash": {"c": 0.4, "rescale": 1, "scale": "sum", "max_norm": 1.0},
    }

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        g = as_array(gram)
        weights, status = self._solve(g)
        weights = weights / {0: 1.0, 1: 1.0 + self.c**2, 2: 1.0 + self.c}[self.rescale]
        if self.scale == "sum":
            weights = weights * len(g)
        return Decision(as_weights(clip(weights, g, self.max_norm)), None, status)

    def _solve(self, g: Array) -> tuple[Array, str]:
        mean = np.full(len(g), 1.0 / len(g))
        if self.c == 0:
            return mean, "ok"
        if not is_stationary(mean, g):
            found = worst_case_weights(g, self.c)
            if not is_stationary(found, g):
                return mean + self.c * length(mean, g) / length(found, g) * found, "ok"
        return mean if self.stationary == "mean" else np.zeros_like(mean), "stationary"
