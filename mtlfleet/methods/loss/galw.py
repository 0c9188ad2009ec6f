from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from mtlfleet.linalg.groups import group_line
from mtlfleet.methods.arrays import as_array
from mtlfleet.methods.base import (
    Decision,
    Gram,
    GramWeighting,
    Losses,
    Step,
    TaskGradients,
    Weights,
    method,
)
from mtlfleet.methods.domain import refuse_negative
from mtlfleet.methods.lastlayer import layer_gram
from mtlfleet.methods.private import Private


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """Of the warm-up: steps t seen, first gradient norms [K], sums of norm and of t times norm; then each task's group
    [K] int64 (-1: not yet) and s per task [K], equal within a group."""

    seen: int
    start: Tensor
    norms: Tensor
    moment: Tensor
    group: Tensor
    scales: Private

    def with_step(self, norms: Tensor) -> Slopes:
        start = norms if self.seen == 0 else self.start
        ratio = torch.where(start > 0, norms / start, 1.0)
        sums = self.norms + ratio, self.moment + self.seen * ratio
        return Slopes(self.seen + 1, start, *sums, self.group, self.scales)

    def grouped(self, groups: int) -> Slopes:
        """Groups of like slope: each task's relative norm over the warm-up, by least squares; steps run from 0 to 1."""
        n = self.seen
        times, squares = n * (n - 1) / 2, n * (n - 1) * (2 * n - 1) / 6
        bottom = n * squares - times**2
        slope = (n * self.moment - times * self.norms) * (n / bottom) if bottom else torch.zeros_like(self.norms)
        group = torch.from_numpy(group_line(as_array(slope), groups))
        return Slopes(n, self.start, self.norms, self.moment, group, self.scales)


@method("galw")
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedLossWeighting(GramWeighting[Slopes]):
    r"""Uncertainty weighting with one uncertainty per group of tasks whose gradients grow or shrink alike.

    ``groups``: how many, at most. ``warmup_epochs``: epochs of plain summing that watch the gradient norms, at K
    backwards a step. ``lr_s``: learning rate of s in an Adam of its own, without weight decay. ``layer``: where norms
    are taken: the ``last`` module with shared parameters, ``all`` of them, or a module's name.

    Math        :math:`L = \sum_m \tfrac12 (e^{-s_m} \sum_{k \in m} \ell_k + s_m)`, :math:`\alpha_k = \tfrac12
                e^{-s_{m(k)}}`; groups from the slopes of :math:`\|g_k\|` over the warm-up. K groups are ``uw``.
    Shapes      losses ``[K]``, in the warm-up gram ``[K, K]`` -> weights ``[K]``; state: three sums, groups and s
                ``[K]``, Adam moments.
    Source      Tian et al., Grouped Adaptive Loss Weighting for Person Search, ACM Multimedia 2022.
    Departures  A reconstruction from the paper's description: no code was published. Groups by exact one-dimensional
                k-means. A negative loss is refused.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("galw", torch.eye(2))
    tensor([1., 1.], dtype=torch.float64)
    """

    heads: ClassVar[str] = "weighted"

    groups: Annotated[int, Ge(1)] = 3
    warmup_epochs: Annotated[int, Ge(0)] = 1
    lr_s: Annotated[float, Gt(0)] = 0.025
    layer: str = "last"

    def init(self, tasks: int) -> Slopes:
        zero = torch.zeros(tasks, dtype=torch.float64)
        return Slopes(0, zero, zero, zero, torch.full((tasks,), -1), Private.start(zero))

    def step(self, grads: TaskGradients, state: Slopes, at: Step) -> tuple[Slopes, str]:
        """Only the warm-up asks for the Gram. Raises OutOfDomain for a negative loss after it."""
        if at.epoch < self.warmup_epochs:
            decision = self.weigh(layer_gram("galw", grads, self.layer), grads.losses, state, at)
        else:
            decision = self._by_group(grads.losses, state, at)
        grads.apply(decision.weights)
        return decision.state, decision.status

    def weigh(self, gram: Gram, losses: Losses, state: Slopes, at: Step) -> Decision:
        if at.epoch >= self.warmup_epochs:
            return self._by_group(losses, state, at)
        norms = gram.diagonal().clamp_min(0).sqrt().to(torch.float64)
        return Decision(Weights(torch.ones_like(norms)), state.with_step(norms), "warmup")

    def _by_group(self, losses: Losses, state: Slopes, at: Step) -> Decision:
        refuse_negative("galw", losses, at, "its weight has no bound")
        if (state.group < 0).any():
            state = state.grouped(self.groups)
        total = torch.zeros_like(losses).index_add_(0, state.group, losses)[state.group]
        weights = 0.5 * torch.exp(-state.scales.value)
        scales = state.scales.descend(0.5 - weights * total, self.lr_s)
        after = Slopes(state.seen, state.start, state.norms, state.moment, state.group, scales)
        return Decision(Weights(weights), after)
