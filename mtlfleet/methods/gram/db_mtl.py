from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Lt

from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, OutOfDomain, Step, Weights, method
from mtlfleet.methods.domain import floored


@method("db_mtl")
@dataclass(frozen=True, slots=True, kw_only=True)
class DualBalancing(GramWeighting[None]):
    r"""Gradients of the logarithms of the losses, all stretched to the length of the longest.

    ``log_losses``: take logarithms first; without, only the gradients are balanced. ``beta``: memory of a moving
    average of the gradients; only 0 so far, as norms of an average kept in shards need a sum over ranks.

    Math        :math:`g_k = \nabla \ln \ell_k`, :math:`d = \sum_k (\max_j \|g_j\| / \|g_k\|)\, g_k`.
    Shapes      gram ``[K, K]``, losses ``[K]`` -> weights ``[K]``; state: none.
    Source      Lin et al., Dual-Balancing for Multi-Task Learning, 2023.
    Departures  No moving average (the authors tune its beta; 0 is one of their values). Task-specific parameters see
                the gradient of the loss, where the authors give them that of its logarithm. A zero gradient has weight
                0 (``zero_gradient``); losses below 1e-8 count as that, negative ones are refused.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("db_mtl", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), log_losses=False)
    tensor([1.4142, 1.0000], dtype=torch.float64)
    """

    log_losses: bool = True
    beta: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        if self.beta:
            raise OutOfDomain(
                f"db_mtl: beta {self.beta:g} needs norms of an average kept in shards; the engine gives no such sum",
                help="use beta: 0",
            )

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain for a negative loss under ``log_losses``."""
        positive, word = floored("db_mtl", losses, at, 1e-8) if self.log_losses else (torch.ones_like(losses), "ok")
        norms = gram.diagonal().clamp_min(0).sqrt().to(torch.float64) / positive
        balance = torch.where(norms > 0, norms.max() / norms, 0.0)
        status = word if word != "ok" else "ok" if (norms > 0).all() else "zero_gradient"
        return Decision(Weights(balance / positive), None, status)
