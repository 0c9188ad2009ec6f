from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.domain import floored
from mtlfleet.methods.tchebycheff import Nadir, log_weights


@method("stch_mtl")
@dataclass(frozen=True, slots=True, kw_only=True)
class TchebycheffOfLogs(LossWeighting[Nadir]):
    r"""Smooth maximum of the logarithms of losses over a nadir that training itself measures.

    ``mu``: width of the smoothing; at 1 the direction is that of static weights 1/z, towards 0 only the worst task
    counts. ``warmup_epochs``: the epoch whose mean losses become the nadir z; up to its end the sum of logarithms is
    trained.

    Math        :math:`L = K \mu \log \sum_k (\ell_k / z_k)^{1 / \mu}`, :math:`\alpha_k = K\,\mathrm{softmax}(\ln(\ell
                / z) / \mu)_k / \ell_k`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: summed losses ``[K]`` and their number.
    Source      Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024 (their
                multi-task experiments).
    Departures  Losses below 1e-20 count as that, where the authors add it. Steps up to the nadir say ``warmup``.
    Properties  permutation, loss_scaling

    >>> import torch
    >>> stch, state = TchebycheffOfLogs(mu=0.1, warmup_epochs=0), Nadir(torch.ones(2, dtype=torch.float64), 1)
    >>> stch.weigh(Losses(torch.tensor([1.0, 2.0], dtype=torch.float64)), state, Step(1, 1)).weights
    tensor([0.0020, 0.9990], dtype=torch.float64)
    """

    mu: Annotated[float, Gt(0)] = 1.0
    warmup_epochs: Annotated[int, Ge(0)] = 4

    presets: ClassVar[dict[str, dict[str, float]]] = {"libmtl": {"mu": 1.0, "warmup_epochs": 4}}

    def init(self, tasks: int) -> Nadir:
        return Nadir.start(tasks)

    def weigh(self, losses: Losses, state: Nadir, at: Step) -> Decision:
        """Raises OutOfDomain for a negative loss, which has no logarithm."""
        positive, word = floored("stch_mtl", losses, at, 1e-20)
        found, state, status = log_weights(positive, state, at.epoch, self.mu, self.warmup_epochs)
        return Decision(Weights(found), state, status if word == "ok" else word)
