from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from mtlfleet.methods.base import (
    Decision,
    Gram,
    GramWeighting,
    Losses,
    OutOfDomain,
    Step,
    TaskGradients,
    Weights,
    method,
)
from mtlfleet.methods.lastlayer import layer_gram
from mtlfleet.methods.private import Private

SMALLEST = 1e-4  # of a weight, before they are scaled to sum K


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """The losses [K] of the first step (zeros before it) and the weights with their Adam moments."""

    first: Tensor
    weights: Private


@method("gradnorm")
@dataclass(frozen=True, slots=True, kw_only=True)
class GradNorm(GramWeighting[Training]):
    r"""Learned weights that hold all task gradients near one norm, longer for tasks that train more slowly.

    ``a``: how much slower tasks are favoured; 0 asks for equal norms. ``lr_w``: learning rate of the weights in an Adam
    of their own. ``layer``: where norms are taken: the ``last`` module with shared parameters, ``all`` of them, or a
    module's name.

    Math        :math:`n_k = w_k \|g_k\|`, :math:`r_k = (\ell_k / \ell_k(0)) / \mathrm{mean}`; one step on :math:`\sum_k
                |n_k - \bar n r_k^a|` with the second term held fixed; then w scaled to sum K.
    Shapes      gram ``[K, K]``, losses ``[K]`` -> weights ``[K]``; state: first losses, w ``[K]`` and its Adam moments.
    Source      Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks,
                ICML 2018.
    Departures  Weights stay above 1e-4 before scaling. A first loss that is not positive is refused. The last layer is
                the last by the model's own order, and all K passes go through the whole trunk. ``gradnorm@libmtl`` has
                that code's norms, of all shared parameters.
    Properties  permutation, sum_to_tasks

    >>> gradnorm = GradNorm()
    >>> gram = Gram(torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64))
    >>> state = gradnorm.weigh(gram, Losses(torch.ones(2, dtype=torch.float64)), gradnorm.init(2), Step()).state
    >>> state.weights.first / 0.1  # the gradient of w
    tensor([-1.0000,  1.4142], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "tasks"

    a: Annotated[float, Ge(0)] = 1.5
    lr_w: Annotated[float, Gt(0)] = 0.025
    layer: str = "last"

    presets: ClassVar[dict[str, dict[str, str]]] = {"libmtl": {"layer": "all"}}

    def init(self, tasks: int) -> Training:
        zero = torch.zeros(tasks, dtype=torch.float64)
        return Training(zero, Private.start(torch.ones_like(zero)))

    def step(self, grads: TaskGradients, state: Training, at: Step) -> tuple[Training, str]:
        """As its family, with the Gram of one layer. Raises OutOfDomain for a layer that is not there."""
        decision = self.weigh(layer_gram("gradnorm", grads, self.layer), grads.losses, state, at)
        grads.apply(decision.weights)
        return decision.state, decision.status

    def weigh(self, gram: Gram, losses: Losses, state: Training, at: Step) -> Decision:
        """The present weights; the next state has them moved. Raises OutOfDomain for a first loss <= 0."""
        first = state.first if state.first.any() else losses.clone()
        if (first <= 0).any():
            raise OutOfDomain(
                f"gradnorm: the rate of training is a loss over its first value; at step {at.number} that is not "
                f"positive: {first.tolist()}",
                help="shift the loss to be positive",
            )
        norms = gram.diagonal().clamp_min(0).sqrt().to(torch.float64)
        w = state.weights.value
        rate = (losses / first).clamp_min(0)
        rate = rate / rate.mean() if rate.any() else torch.ones_like(rate)
        slope = torch.sign(w * norms - (w * norms).mean() * rate**self.a) * norms
        after = state.weights.descend(slope, self.lr_w)
        value = after.value.clamp_min(SMALLEST)
        moved = Private(value * (len(w) / value.sum()), after.first, after.second, after.count)
        return Decision(Weights(w), Training(first, moved))
