"""The same step without any of the cleverness: one process, the whole Jacobian in memory. The oracle of the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlfleet.engine.gradients import Gram, Losses, Rows, Weights


class DenseGradients:
    """TaskGradients over a given Jacobian [K, P]. Losses default to ones."""

    def __init__(self, jacobian: Tensor, losses: Tensor | None = None) -> None:
        if jacobian.dim() != 2:
            raise ValueError(f"a Jacobian is [tasks, parameters]; found shape {tuple(jacobian.shape)}")
        if losses is not None and losses.shape != jacobian.shape[:1]:
            raise ValueError(f"losses must be [{jacobian.shape[0]}], one per row; found shape {tuple(losses.shape)}")
        self.jacobian = jacobian
        given = torch.ones(jacobian.shape[0]) if losses is None else losses
        self.losses = Losses(given.detach().to(torch.float64))
        self.weights: Weights | None = None
        self._direction: Tensor | None = None

    @property
    def columns(self) -> range:
        return range(self.jacobian.shape[1])

    def gram(self) -> Gram:
        rows = self.jacobian.to(torch.float64)
        return Gram(rows @ rows.T)

    def rows(self) -> Rows:
        return Rows(self.jacobian)

    def apply(self, weights: Weights) -> None:
        self.weights = weights
        self._direction = (weights.to(torch.float64) @ self.jacobian.to(torch.float64)).to(self.jacobian.dtype)

    def write(self, direction: Tensor) -> None:
        self._direction = direction

    def direction(self) -> Tensor:
        """The shared gradient [P] that the method wrote. Raises RuntimeError when it wrote none."""
        if self._direction is None:
            raise RuntimeError("the method wrote no gradient")
        return self._direction
