from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from mtlfleet.methods.base import OwnStep, Step, TaskGradients, Weights, method
from mtlfleet.methods.shards import beside

FLOOR = 1e-7  # under the root, as in the authors' code


@dataclass(frozen=True, slots=True, eq=False)
class Excess:
    """Summed squared gradients [K, n], this rank's columns ([K, 0] before the first step); the risks that all others
    are divided by [K], as a sum over ``counted`` steps; logarithms [K] of the shares."""

    squares: Tensor
    first: Tensor
    counted: int
    logs: Tensor


@method("excess_mtl")
@dataclass(frozen=True, slots=True, kw_only=True)
class ExcessMTL(OwnStep[Excess]):
    r"""Weights that grow with how far each task is estimated to be from its own optimum, not with its loss.

    ``eta``: step size of the weights. ``warmup_epochs``: epochs with equal weights whose mean risk the later ones are
    divided by; 0 takes the first step's.

    Math        :math:`S_k \leftarrow S_k + g_k^2`, :math:`E_k = \sum_p g_{kp}^2 / \sqrt{S_{kp}}`, :math:`\alpha_k
                \propto \alpha_k \exp(\eta E_k / E^0_k)`, :math:`\sum_k \alpha_k = K`; the first step, or the warm-up,
                gives :math:`E^0`.
    Shapes      rows ``[K, n]`` -> weights ``[K]``; state: S ``[K, n]``, three times ``[K]`` and a count.
    Source      He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024.
    Departures  Weights move in logarithms, so that none overflows. A task whose first gradients are zero (it may have
                no labels there) is given its first other risk as :math:`E^0_k`, where the authors divide by zero
                (``zero_gradient``). The paper warms up for three epochs (``excess_mtl@paper``), its code does not;
                ``excess_mtl@libmtl`` has eta 0.01.
    Properties  permutation, sum_to_tasks

    >>> import torch
    >>> risks = ExcessMTL()
    >>> from mtlfleet.engine.reference import DenseGradients
    >>> state, _ = risks.step(DenseGradients(torch.tensor([[1.0, 0.0], [-1.0, 1.0]])), risks.init(2), Step())
    >>> state.first  # the sums of absolute values
    tensor([1., 2.], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "tasks"

    heads: ClassVar[str] = "weighted"
    shards: ClassVar[tuple[str, ...]] = ("squares",)

    eta: Annotated[float, Ge(0)] = 1.0
    warmup_epochs: Annotated[int, Ge(0)] = 0

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"warmup_epochs": 3}, "libmtl": {"eta": 0.01}}

    def init(self, tasks: int) -> Excess:
        zero = torch.zeros(tasks, dtype=torch.float64)
        return Excess(torch.zeros(tasks, 0), zero, 0, zero - math.log(tasks))

    def step(self, grads: TaskGradients, state: Excess, at: Step) -> tuple[Excess, str]:
        rows = grads.rows()
        energy = rows.square()
        squares = beside(state.squares, rows) + energy
        partial = energy.div_((squares + FLOOR).sqrt_()).sum(dim=1, dtype=torch.float64)
        state = self._moved(grads.total(partial.cpu()), squares, state, at)
        grads.apply(Weights(len(rows) * state.logs.exp()))
        return state, "ok" if (state.first > 0).all() else "zero_gradient"

    def _moved(self, risk: Tensor, squares: Tensor, state: Excess, at: Step) -> Excess:
        """The next state, with this step's risks [K] seen."""
        if state.counted == 0 or at.epoch < self.warmup_epochs:
            return Excess(squares, state.first + risk, state.counted + 1, state.logs)
        known = state.first > 0
        first = torch.where(known, state.first, risk * state.counted)
        ratio = torch.where(known, risk * state.counted / torch.where(known, first, 1.0), 0.0)
        return Excess(squares, first, state.counted, torch.log_softmax(state.logs + self.eta * ratio, dim=0))
