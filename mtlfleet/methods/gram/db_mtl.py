from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from mtlfleet.engine.products import combine
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Needs, Step, TaskGradients, Weights, method
from mtlfleet.methods.domain import floored
from mtlfleet.methods.shards import beside

SMALLEST = 1e-8  # of a loss under the logarithm


@dataclass(frozen=True, slots=True, eq=False)
class Averaged:
    """Steps so far, the averaged gradients [K, n] of this rank ([K, 0] while there are none), the last balance [K]."""

    steps: int
    average: Tensor
    balance: Tensor


@method("db_mtl")
@dataclass(frozen=True, slots=True, kw_only=True)
class DualBalancing(GramWeighting[Averaged]):
    r"""Gradients of the logarithms of the losses, averaged over steps, all stretched to the length of the longest.

    ``log_losses``: take logarithms first; without, only the gradients are balanced. ``beta``, ``sigma``: memory of the
    moving average, beta / t^sigma at step t = 1, 2, ...; with beta 0 there is none, and a step needs norms only.

    Math        :math:`g_k = \nabla \ln \ell_k`, :math:`\hat g_k \leftarrow g_k + \beta_t (\hat g_k - g_k)`, :math:`d =
                \sum_k (\max_j \|\hat g_j\| / \|\hat g_k\|)\, \hat g_k`; the average starts at 0.
    Shapes      gram ``[K, K]``, losses ``[K]`` -> weights ``[K]``; with beta > 0 rows ``[K, n]`` -> update ``[n]`` and
                state: the average ``[K, n]``. Reports ``balance``: the stretch of each task.
    Source      Lin et al., Dual-Balancing for Multi-Task Learning, 2023.
    Departures  A zero gradient has weight 0 (``zero_gradient``); losses below 1e-8 count as that, negative ones are
                refused. Task-specific parameters see the gradient of the logarithm of their loss, as in the authors'
                code. beta is 0 by default, one of the values among which the authors choose; ``db_mtl@libmtl`` has 0.9.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("db_mtl", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), log_losses=False)
    tensor([1.4142, 1.0000], dtype=torch.float64)
    >>> methods.combine("db_mtl", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), log_losses=False, beta=0.9)
    tensor([0.0414, 0.1000])
    """

    shards: ClassVar[tuple[str, ...]] = ("average",)

    log_losses: bool = True
    beta: Annotated[float, Ge(0), Lt(1)] = 0.0
    sigma: Annotated[float, Ge(0)] = 0.0

    presets: ClassVar[dict[str, dict[str, Any]]] = {"libmtl": {"beta": 0.9}}

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs.ROWS if self.beta else Needs.GRAM

    @property
    def weight_sum(self) -> str:  # type: ignore[override]
        return "none" if self.beta else "free"

    def init(self, tasks: int) -> Averaged:
        return Averaged(0, torch.zeros(tasks, 0), torch.ones(tasks, dtype=torch.float64))

    def weigh(self, gram: Gram, losses: Losses, state: Averaged, at: Step) -> Decision:
        """Without an average. Raises OutOfDomain for a negative loss under ``log_losses``."""
        positive, word = self._positive(losses, at)
        norms = gram.diagonal().clamp_min(0).sqrt().to(torch.float64) / positive
        balance, word = _balanced(norms, word)
        return Decision(Weights(balance / positive), Averaged(state.steps + 1, state.average, balance), word)

    def step(self, grads: TaskGradients, state: Averaged, at: Step) -> tuple[Averaged, str]:
        """Raises OutOfDomain for a negative loss under ``log_losses``."""
        if not self.beta:
            decision = self.weigh(grads.gram(), grads.losses, state, at)
            grads.apply(decision.weights)
            self._heads(grads, at)
            return decision.state, decision.status
        positive, word = self._positive(grads.losses, at)
        rows, steps = grads.rows(), state.steps + 1
        posed = rows / positive[:, None].to(rows)
        average = torch.lerp(posed, beside(state.average, rows), self.beta / steps**self.sigma)
        norms = grads.total(average.square().sum(dim=1, dtype=torch.float64).cpu()).sqrt()
        balance, word = _balanced(norms, word)
        grads.write(combine(average, balance, in_place=False))
        self._heads(grads, at)
        return Averaged(steps, average, balance), word

    def report(self, state: Averaged) -> Mapping[str, Tensor]:
        return {"balance": state.balance}

    def _heads(self, grads: TaskGradients, at: Step) -> None:
        """Task parameters follow the logarithm of their own loss, without the balance."""
        if self.log_losses:
            grads.scale_own(Weights(1.0 / self._positive(grads.losses, at)[0]))

    def _positive(self, losses: Losses, at: Step) -> tuple[Tensor, str]:
        """What gradients are divided by [K]."""
        return floored("db_mtl", losses, at, SMALLEST) if self.log_losses else (torch.ones_like(losses), "ok")


def _balanced(norms: Tensor, word: str) -> tuple[Tensor, str]:
    """[K] stretches to the largest norm, 0 for a zero gradient; and the word."""
    balance = torch.where(norms > 0, norms.max() / norms, 0.0)
    return balance, word if word != "ok" else "ok" if (norms > 0).all() else "zero_gradient"
