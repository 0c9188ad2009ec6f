"""The same step without any of the cleverness: one process, the whole Jacobian in memory. The oracle of the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlfleet.engine.gradients import Gram, Losses, Rows, Weights


class DenseRepresentation:
    """AtRepresentation over given gradients [K, B, D] and z [B, D], with z's own Jacobian [B * D, P]; without one, z is
    what is trained."""

    def __init__(self, z: Tensor, gradients: Tensor, trunk: Tensor | None, owner: DenseGradients) -> None:
        self.z = z
        self.gradients = gradients
        self._trunk = trunk
        self._owner = owner

    def batch_sum(self, signed: bool = False) -> Tensor:
        return (self.gradients * self.z.sign() if signed else self.gradients).sum(1).flatten(1)

    def gram(self, convention: str = "concat") -> Gram:
        if convention not in ("concat", "batch_sum"):
            raise ValueError(f"convention is 'concat' or 'batch_sum'; found {convention!r}")
        rows = (self.gradients.flatten(1) if convention == "concat" else self.batch_sum()).to(torch.float64)
        return Gram(rows @ rows.T)

    def apply(self, weights: Weights, own: Weights | None = None) -> None:
        self._owner.weights, self._owner.own = weights, own
        self.write(torch.tensordot(weights.to(self.gradients.dtype), self.gradients, 1))

    def write(self, cotangent: Tensor) -> None:
        flat = cotangent.flatten()
        self._owner.write(flat if self._trunk is None else flat @ self._trunk)


class DenseGradients:
    """TaskGradients over a given Jacobian [K, P]. Losses default to ones.

    ``groups``: column ranges by the name of their tensor, default one; ``earlier``: the Jacobians of the step's other
    batches; ``representation``: (z [B, D], gradients [K, B, D], Jacobian of z [B * D, P]), by default the parameters
    themselves as one sample of ones.
    """

    def __init__(
        self,
        jacobian: Tensor,
        losses: Tensor | None = None,
        *,
        groups: Mapping[str, slice] | None = None,
        earlier: Sequence[Tensor] = (),
        representation: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        if jacobian.dim() != 2:
            raise ValueError(f"a Jacobian is [tasks, parameters]; found shape {tuple(jacobian.shape)}")
        if losses is not None and losses.shape != jacobian.shape[:1]:
            raise ValueError(f"losses must be [{jacobian.shape[0]}], one per row; found shape {tuple(losses.shape)}")
        self.jacobian = jacobian
        given = torch.ones(jacobian.shape[0]) if losses is None else losses
        self.losses = Losses(given.detach().to(torch.float64))
        self._groups = dict(groups) if groups is not None else {"": slice(0, jacobian.shape[1])}
        self._batches = (*earlier, jacobian)
        self._representation = representation
        self.weights: Weights | None = None
        self.own: Weights | None = None  # factors of task parameters' gradients, where a method sets them
        self._direction: Tensor | None = None

    def _by(self, by: str) -> dict[str, list[slice]]:
        if by not in ("tensor", "layer"):
            raise ValueError(f"groups are by 'tensor' or 'layer'; found {by!r}")
        found: dict[str, list[slice]] = {}
        for name, columns in self._groups.items():
            found.setdefault(name if by == "tensor" else name.rpartition(".")[0], []).append(columns)
        return found

    def grams(self, by: str = "tensor") -> tuple[tuple[str, ...], Tensor]:
        groups, rows = self._by(by), self.jacobian.to(torch.float64)
        each = [torch.cat([rows[:, columns] for columns in group], 1) for group in groups.values()]
        return tuple(groups), torch.stack([part @ part.T for part in each])

    def apply_grouped(self, weights: Tensor, by: str = "tensor") -> None:
        direction = torch.zeros_like(self.jacobian[0])
        for mine, group in zip(weights, self._by(by).values(), strict=True):
            for columns in group:
                direction[columns] = mine.to(self.jacobian.dtype) @ self.jacobian[:, columns]
        self._direction = direction

    def cross_gram(self, first: int, second: int) -> Tensor:
        return self._batches[first].to(torch.float64) @ self._batches[second].to(torch.float64).T

    def total(self, partial: Tensor) -> Tensor:
        return partial

    @property
    def representation(self) -> DenseRepresentation:
        """The one that was given, or the parameters."""
        if self._representation is None:
            return DenseRepresentation(torch.ones_like(self.jacobian[:1]), self.jacobian[:, None], None, self)
        return DenseRepresentation(*self._representation, self)

    @property
    def columns(self) -> Tensor:
        return torch.arange(self.jacobian.shape[1])

    def gram(self) -> Gram:
        rows = self.jacobian.to(torch.float64)
        return Gram(rows @ rows.T)

    def rows(self) -> Rows:
        return Rows(self.jacobian)

    def apply(self, weights: Weights) -> None:
        self.weights = weights
        self._direction = (weights.to(torch.float64) @ self.jacobian.to(torch.float64)).to(self.jacobian.dtype)

    def apply_mean(self, weights: Weights) -> None:
        self.weights = weights
        mean = torch.stack([batch.to(torch.float64) for batch in self._batches]).mean(0)
        self._direction = (weights.to(torch.float64) @ mean).to(self.jacobian.dtype)

    def scale_own(self, factors: Weights) -> None:
        self.own = factors

    def write(self, direction: Tensor) -> None:
        self._direction = direction

    def direction(self) -> Tensor:
        """The shared gradient [P] that the method wrote. Raises RuntimeError when it wrote none."""
        if self._direction is None:
            raise RuntimeError("the method wrote no gradient")
        return self._direction
