from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from mtlfleet.linalg.gram import Array, clip
from mtlfleet.linalg.simplex import mean_root, towards_mean, towards_mean_by_steps
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import OwnStep, Step, TaskGradients, method


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """The weights [K] of the last step, summing to one, before the mean is added."""

    weights: Tensor


@method("sdmgrad")
@dataclass(frozen=True, slots=True, kw_only=True)
class SDMGrad(OwnStep[Direction]):
    r"""The shortest convex combination of task gradients, held near their mean, from independent batches.

    ``lam``: how strongly it is held; large is the mean, 0 is mgda's problem. ``solver``: ``exact``, or ``loop`` for
    ``iterations`` projected gradient steps of size ``lr`` with ``momentum`` from the last step's weights. ``scale``:
    ``native`` weights, summing to one, or those times K (``times_k``). ``max_norm``: the update's norm is cut there;
    None is no limit.

    Math        :math:`w = \arg\min_{w \in \Delta} \|J^T (w + \lambda / K)\|^2` with :math:`J_1 J_2^T` of two batches
                for :math:`J J^T`; :math:`d = J_3^T (w + \lambda / K) / (1 + \lambda)`.
    Shapes      products of two batches ``[K, K]`` -> weights ``[K]``; state: w ``[K]``. Three batches a step.
    Source      Xiao, Ban and Ji, Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
                Algorithms, NeurIPS 2023.
    Departures  Solved exactly, on the symmetric part of the products, with as much of the identity on top as makes it
                a Gram; the authors' loop (``sdmgrad@official_loop``, with K times the update, cut at norm 1) ends far
                from that: at a corner, mostly. Their three batches share one buffer and are one batch; here they are
                three, of which the last is applied. ``sdmgrad@libmtl``: a loop with lr 5. Where no task's two gradients
                agree (``no_scale``) a step keeps the weights.
    Properties  permutation, sum_to_one

    >>> from mtlfleet import methods
    >>> methods.weights("sdmgrad", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    batches: ClassVar[int] = 3

    lam: Annotated[float, Ge(0)] = 0.3
    solver: Literal["exact", "loop"] = "exact"
    iterations: Annotated[int, Ge(1)] = 20
    lr: Annotated[float, Gt(0)] = 10.0
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.5
    scale: Literal["native", "times_k"] = "native"
    max_norm: Annotated[float, Gt(0)] | None = None

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "official_loop": {"solver": "loop", "scale": "times_k", "max_norm": 1.0},
        "libmtl": {"solver": "loop", "lr": 5.0},
    }

    @property
    def weight_sum(self) -> str:  # type: ignore[override]
        return "free" if self.max_norm is not None else "tasks" if self.scale == "times_k" else "one"

    def init(self, tasks: int) -> Direction:
        return Direction(torch.full((tasks,), 1.0 / tasks, dtype=torch.float64))

    def step(self, grads: TaskGradients, state: Direction, at: Step) -> tuple[Direction, str]:  # noqa: ARG002
        products, w = as_array(grads.cross_gram(0, 1)), as_array(state.weights)
        seen = mean_root(products) > 0
        if seen:
            w = self._solved(products, w)
        weights = (w + self.lam / len(w)) / (1.0 + self.lam)
        if self.scale == "times_k":
            weights = weights * len(w)
        if self.max_norm is not None:
            weights = clip(weights, as_array(grads.gram()), self.max_norm)
        grads.apply(as_weights(weights))
        return Direction(as_weights(np.copy(w))), "ok" if seen else "no_scale"

    def _solved(self, products: Array, w: Array) -> Array:
        if self.solver == "exact":
            return towards_mean(products, self.lam)
        return towards_mean_by_steps(
            products, self.lam, w, lr=self.lr, momentum=self.momentum, iterations=self.iterations
        )
