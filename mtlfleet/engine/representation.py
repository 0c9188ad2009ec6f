"""Task gradients at the representation that all heads read: K passes through heads, one through the trunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlfleet.engine.backward import Graph
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Gram, Weights
from mtlfleet.engine.outcome import NonFinite, Outcome
from mtlfleet.engine.products import block_gram
from mtlfleet.errors import EngineRefused


def refuse_without(known: bool, what: str) -> None:
    """Raise EngineRefused when no tensor is known behind which all shared parameters lie, on every rank."""
    if not known:
        raise EngineRefused(
            f"{what} looks at the gradient of one representation that all tasks share, and this model shows none",
            notes=["inputs of their own for each task, or features of their own, leave no such tensor"],
            help="pass it: engine.step(losses, features=z), or GradientEngine(..., representation=module)",
        )


class Shown:
    """The representations that a step was told of, or that a declared module put out since the last one."""

    def __init__(self, module: nn.Module | None) -> None:
        self.z: list[Tensor | None] = []
        self._captured: list[Tensor] = []
        if module is not None:
            module.register_forward_hook(self._capture)

    def _capture(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if torch.is_grad_enabled() and isinstance(output, Tensor) and output.requires_grad:
            self._captured.append(output)

    def take(self, features: Tensor | Sequence[Tensor | None] | None, batches: int) -> list[Tensor | None]:
        """One per batch, None where there is none. Raises ValueError when their number is not the batches'."""
        captured, self._captured = self._captured, []
        given: Sequence[Tensor | None] = captured[-batches:]
        if features is not None:
            given = [features] if isinstance(features, Tensor) else features
        if given and len(given) != batches:
            raise ValueError(f"one representation per batch: {batches} batches, found {len(given)}")
        self.z = [z if z is not None and z.requires_grad else None for z in given] or [None] * batches
        return self.z


class Representation:
    """z on this rank and the gradients of the global-mean losses with respect to it."""

    def __init__(self, graph: Graph, exchange: Exchange, outcome: Outcome) -> None:
        self._graph = graph
        self._exchange = exchange
        self._outcome = outcome
        self._gradients: Tensor | None = None
        self.weights: Tensor | None = None
        self.used = False

    @property
    def z(self) -> Tensor:
        """This rank's representation [B, ...], without its graph; empty where the rank has no samples."""
        return torch.zeros(0) if self._graph.z is None else self._graph.z.detach()

    @property
    def gradients(self) -> Tensor:
        """[K, B, ...] for this rank's samples. Over ranks they are one batch: nothing has to be averaged."""
        if self._gradients is None:
            self.used = True
            z, reach = self._graph.z, self._graph.reach
            if z is None:
                self._gradients = torch.zeros(len(reach.tasks), 0)
            else:
                heads = self._graph.heads()
                pairs = [heads[task][0] if task in heads else None for task in reach.tasks]
                stacked = torch.stack([torch.zeros_like(z) if dz is None else dz for dz in pairs])
                self._gradients = stacked if self._graph.scale == 1.0 else stacked / self._graph.scale
        return self._gradients

    def batch_sum(self, signed: bool = False) -> Tensor:
        """[K, D]: gradients summed over the samples of all ranks, the representation's other axes flattened.

        ``signed``: each number is first multiplied by the sign of the representation there. Raises NonFinite.
        """
        mine = self.gradients
        flat = mine.new_zeros(mine.shape[0], self._graph.width)
        if mine.shape[1]:
            told = mine * self.z.sign() if signed else mine
            flat = told.reshape(mine.shape[0], mine.shape[1], -1).sum(1)
        found = self._exchange.total(flat)
        if not torch.isfinite(found).all():
            raise NonFinite("a task gradient is not finite")
        return found

    def gram(self, convention: str = "concat") -> Gram:
        """[K, K]. ``"concat"``: samples side by side; ``"batch_sum"``: of gradients summed over samples (LibMTL's).

        Source: Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018 (upper bound).
        """
        if convention == "batch_sum":
            found = block_gram(self.batch_sum())
        elif convention == "concat":
            found = self._exchange.total(block_gram(self.gradients.flatten(1)))
        else:
            raise ValueError(f"convention is 'concat' or 'batch_sum'; found {convention!r}")
        if not torch.isfinite(found).all():
            raise NonFinite("a task gradient is not finite")
        return Gram(found)

    def apply(self, weights: Weights, own: Weights | None = None) -> None:
        """The shared gradient becomes sum_k weights[k] * g_k, by one pass from the representation.

        ``own`` [K]: what task parameters' gradients are multiplied by, instead of what the method's ``heads`` says.
        """
        self.weights = weights.detach().to(torch.float64)
        gradients = self.gradients
        told = self.weights.to(gradients.dtype).to(gradients.device)
        self._outcome.from_representation(torch.tensordot(told, gradients, 1), self.weights, own)

    def write(self, cotangent: Tensor) -> None:
        """The shared gradient becomes what a pass from the representation with ``cotangent`` [B, ...] gives."""
        self._outcome.from_representation(cotangent, None)
