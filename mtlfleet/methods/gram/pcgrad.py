from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mtlfleet.linalg.surgery import remove_conflicts
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


@method("pcgrad")
@dataclass(frozen=True, slots=True, kw_only=True)
class PCGrad(GramWeighting[None]):
    r"""Gradients projected off those they conflict with, one after the other in random order, then summed.

    ``order``: ``random`` draws a fresh order per task and step; ``fixed`` goes by task number. ``include_self``:
    whether a gradient, once altered, also meets its own original. ``reduction``: ``sum`` or ``mean`` of the altered
    gradients.

    Math        :math:`g_i \leftarrow g_i - \min(0, g_i g_j) / \|g_j\|^2\, g_j` for each other j in order; :math:`d =
                \sum_i g_i`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none, the orders are keyed by (seed, step).
    Source      Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020.
    Departures  None. ``pcgrad@tf`` is what the authors' TensorFlow code does: its shuffle is discarded, and tasks meet
                themselves. A zero gradient removes nothing and is reported as ``zero_gradient``.
    Properties  common_scaling, keeps_agreement

    >>> from mtlfleet import methods
    >>> methods.combine("pcgrad", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.5000, 1.5000])
    """

    order: Literal["random", "fixed"] = "random"
    include_self: bool = False
    reduction: Literal["sum", "mean"] = "sum"

    presets: ClassVar[dict[str, dict[str, str | bool]]] = {"tf": {"order": "fixed", "include_self": True}}

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        g = as_array(gram)
        altered = remove_conflicts(g, self._orders(len(g), at)).sum(axis=0)
        status = "ok" if np.diagonal(g).all() else "zero_gradient"
        return Decision(as_weights(altered / len(g) if self.reduction == "mean" else altered), None, status)

    def _orders(self, tasks: int, at: Step) -> NDArray[np.int64]:
        """[K, K] or [K, K - 1]: whom each task meets, in order."""
        if self.order == "random":
            keys = torch.rand(tasks, tasks, generator=at.generator("pcgrad"), dtype=torch.float64).numpy()
        else:
            keys = np.tile(np.arange(tasks) / tasks, (tasks, 1))
        if self.include_self:
            return np.argsort(keys, axis=1)
        return np.argsort(np.where(np.eye(tasks, dtype=bool), np.inf, keys), axis=1)[:, : tasks - 1]
