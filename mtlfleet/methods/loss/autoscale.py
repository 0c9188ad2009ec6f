from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from mtlfleet.linalg.conditioning import best_scales
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


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Of the running window: steps, sums of the Gram [K, K] and of the losses [K]. Of those before: how many found
    scales, and the sum of the logarithms [K]. ``weights`` [K]: zeros until the probe is over."""

    seen: int
    gram: Tensor
    losses: Tensor
    windows: int
    logs: Tensor
    weights: Tensor


@method("autoscale")
@dataclass(frozen=True, slots=True, kw_only=True)
class AutoScale(GramWeighting[Probe]):
    r"""Static weights that a first phase of training picks, so that gradients are alike in size; then ``linear``.

    ``metric``: what is made best in each window of the first phase: similar gradient ``magnitude``, a small
    ``condition`` number of the Gram of the weighted gradients, or equal weighted ``loss``. ``probe_epochs``: epochs of
    plain summing that are watched, at K backwards a step. ``window``: steps averaged into one choice; the weights are
    the geometric mean of the windows' choices.

    Math        In each window :math:`w_k \propto 1 / \bar n_k`, where every :math:`2 w_i n_i w_j n_j / (w_i^2 n_i^2 +
                w_j^2 n_j^2)` is one; :math:`w = \arg\min \mathrm{cond}(\mathrm{diag}(w)\, \bar G\,
                \mathrm{diag}(w))`; or :math:`w_k \propto 1 / \bar\ell_k`; :math:`\alpha = K w / \sum_j w_j` from
                then on.
    Shapes      losses ``[K]``, in the first phase gram ``[K, K]`` -> weights ``[K]``; state: sums ``[K, K]`` and
                ``[K]``, the weights.
    Source      Yang et al., AutoScale: Linear Scalarization Guided by Multi-Task Optimization Metrics, 2025.
    Departures  A reconstruction from the paper's description (two phases in one run, windows, the metrics that good
                static weights share): no code was published. Plain summing in the first phase. Windows in which a task
                has no gradient, or no positive loss, choose nothing; without any choice weights are equal
                (``no_choice``).
    Properties  permutation

    >>> found = AutoScale(window=1, probe_epochs=1)
    >>> rows = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> losses = Losses(torch.ones(2, dtype=torch.float64))
    >>> state = found.weigh(Gram(rows @ rows.T), losses, found.init(2), Step(0, 0)).state
    >>> found.weigh(Gram(rows @ rows.T), losses, state, Step(1, 1)).weights
    tensor([0.5000, 1.5000], dtype=torch.float64)
    """

    heads: ClassVar[str] = "weighted"
    weight_sum: ClassVar[str] = "tasks"

    metric: Literal["magnitude", "condition", "loss"] = "magnitude"
    probe_epochs: Annotated[int, Ge(1)] = 1
    window: Annotated[int, Ge(1)] = 20

    def init(self, tasks: int) -> Probe:
        zero = torch.zeros(tasks, dtype=torch.float64)
        return Probe(0, torch.zeros(tasks, tasks, dtype=torch.float64), zero, 0, zero, zero)

    def step(self, grads: TaskGradients, state: Probe, at: Step) -> tuple[Probe, str]:
        """Only the first phase asks for the Gram."""
        if at.epoch < self.probe_epochs:
            decision = self.weigh(grads.gram(), grads.losses, state, at)
        else:
            decision = self._static(state, len(grads.losses))
        grads.apply(decision.weights)
        return decision.state, decision.status

    def weigh(self, gram: Gram, losses: Losses, state: Probe, at: Step) -> Decision:
        if at.epoch >= self.probe_epochs:
            return self._static(state, len(losses))
        sums = state.gram + gram.to(torch.float64), state.losses + losses
        state = Probe(state.seen + 1, *sums, state.windows, state.logs, state.weights)
        if state.seen >= self.window:
            state = self._closed(state)
        return Decision(Weights(torch.ones_like(losses)), state, "probe")

    def _static(self, state: Probe, tasks: int) -> Decision:
        """The weights found; at the first step after the probe, finds them."""
        if not state.weights.any():
            state = self._closed(state)
            shares = torch.softmax(state.logs / max(1, state.windows), 0)
            state = Probe(0, state.gram, state.losses, state.windows, state.logs, tasks * shares)
        return Decision(Weights(state.weights), state, "ok" if state.windows else "no_choice")

    def _closed(self, state: Probe) -> Probe:
        """With the running window's choice, if it has one, and an empty window."""
        if not state.seen:
            return state
        chosen, empty = self._choice(state), self.init(len(state.losses))
        logs = state.logs if chosen is None else state.logs + chosen
        return Probe(0, empty.gram, empty.losses, state.windows + (chosen is not None), logs, state.weights)

    def _choice(self, state: Probe) -> Tensor | None:
        """Logarithms [K], of mean zero, of the scales that are best on the window's means."""
        if self.metric == "loss":
            if (state.losses <= 0).any():
                return None
            logs = -torch.log(state.losses)
            return logs - logs.mean()
        squares = state.gram.diagonal()
        if (squares <= 0).any():
            return None
        if self.metric == "magnitude":
            logs = -0.5 * torch.log(squares)
            return logs - logs.mean()
        return torch.from_numpy(np.log(best_scales(as_array(state.gram))))
