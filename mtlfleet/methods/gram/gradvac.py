from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor

from mtlfleet.linalg.gram import Array
from mtlfleet.linalg.surgery import raise_cosines
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Needs, Step, TaskGradients, method
from mtlfleet.methods.orders import random_orders

WIDEST = 1.0 - 1e-6  # of a target: two parallel gradients have no angle to turn by


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Running means [K, K] of the cosines each task saw with each other one."""

    cosines: Tensor


@method("gradvac")
@dataclass(frozen=True, slots=True, kw_only=True)
class GradVac(GramWeighting[Targets]):
    r"""Gradients turned towards each other until their cosines reach what they were on average, then summed.

    ``beta``: how fast the average follows. ``groups``: the parts of the model whose gradients are compared and turned
    each on its own: the ``whole`` model, every ``layer`` or every ``tensor``.

    Math        Where :math:`\phi = \cos(g_i, g_j) < \hat\phi_{ij}`: :math:`g_i \leftarrow g_i + g_j\, n_i (\hat\phi
                \sqrt{1 - \phi^2} - \phi \sqrt{1 - \hat\phi^2}) / (n_j \sqrt{1 - \hat\phi^2})`; then always
                :math:`\hat\phi_{ij} \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi`; :math:`d = \sum_i g_i`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``, or ``[L, K, K]`` -> ``[L, K]``; state: targets ``[K, K]`` or
                ``[L, K, K]``; orders are keyed by (seed, step), the same for all parts.
    Source      Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
                Multilingual Models, ICLR 2021.
    Departures  The whole model unless told otherwise, where the paper prefers layers. ``gradvac@libmtl`` has beta 0.5.
                A zero gradient turns nobody and is reported as ``zero_gradient``.
    Properties  common_scaling, keeps_agreement

    >>> from mtlfleet import methods
    >>> methods.weights("gradvac", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))  # targets start at zero: pcgrad
    tensor([2.0000, 1.5000], dtype=torch.float64)
    """

    beta: Annotated[float, Ge(0), Le(1)] = 0.01
    groups: Literal["whole", "layer", "tensor"] = "whole"

    presets: ClassVar[dict[str, dict[str, float]]] = {"libmtl": {"beta": 0.5}}

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs.GRAM if self.groups == "whole" else Needs.ROWS

    def init(self, tasks: int) -> Targets:
        return Targets(torch.zeros(tasks, tasks, dtype=torch.float64))

    def step(self, grads: TaskGradients, state: Targets, at: Step) -> tuple[Targets, str]:
        """Each part of the model gets weights of its own."""
        if self.groups == "whole":
            return GramWeighting.step(self, grads, state, at)
        _, each = grads.grams(self.groups)
        targets = state.cosines.expand(each.shape)  # [K, K] before the first step
        orders = random_orders(each.shape[-1], at, "gradvac")
        turned = [self._turn(as_array(g), as_array(target), orders) for g, target in zip(each, targets, strict=True)]
        weights, after = (torch.from_numpy(np.stack(part)) for part in zip(*turned, strict=True))
        grads.apply_grouped(weights, self.groups)
        return Targets(after), "ok" if each.sum(0).diagonal().all() else "zero_gradient"

    def weigh(self, gram: Gram, losses: Losses, state: Targets, at: Step) -> Decision:  # noqa: ARG002
        g = as_array(gram)
        weights, after = self._turn(g, as_array(state.cosines), random_orders(len(g), at, "gradvac"))
        status = "ok" if np.diagonal(g).all() else "zero_gradient"
        return Decision(as_weights(weights), Targets(torch.from_numpy(after)), status)

    def _turn(self, g: Array, target: Array, orders: NDArray[np.int64]) -> tuple[Array, Array]:
        """Weights [K] of one part, and its next targets [K, K]."""
        turned, seen = raise_cosines(g, orders, target.clip(-WIDEST, WIDEST))
        after: Array = (1.0 - self.beta) * target + self.beta * seen
        np.fill_diagonal(after, 0.0)
        return turned.sum(axis=0), after
