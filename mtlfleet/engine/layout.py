"""Which parameter sits where: a flat vector of P numbers, padded and cut into one shard of n per rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """Parameters in a fixed order, flattened; ``shard`` = n = ceil(P / world), ``padded`` = n * world >= P.

    The order is the model's own and equal on every rank, so a column of the Gram means the same parameter everywhere.
    """

    parameters: tuple[nn.Parameter, ...]
    offsets: tuple[int, ...]
    size: int
    shard: int
    world: int

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter], world: int) -> Layout:
        offsets, size = [], 0
        for parameter in parameters:
            offsets.append(size)
            size += parameter.numel()
        return cls(tuple(parameters), tuple(offsets), size, -(-size // world), world)

    @property
    def padded(self) -> int:
        return self.shard * self.world

    def empty(self) -> Tensor:
        """A zeroed flat vector [padded] on the parameters' device; float32, or the parameters' type if wider."""
        first = self.parameters[0]
        return torch.zeros(self.padded, device=first.device, dtype=torch.promote_types(first.dtype, torch.float32))

    def pack(self, gradients: Sequence[Tensor | None], into: Tensor) -> Tensor:
        """Copy gradients (None = zeros) into the flat vector ``into`` [padded]; the padding stays zero."""
        for parameter, offset, gradient in zip(self.parameters, self.offsets, gradients, strict=True):
            place = into[offset : offset + parameter.numel()]
            if gradient is None:
                place.zero_()
            else:
                place.copy_(gradient.reshape(-1))
        return into

    def pack_from(self, first: int, gradients: Sequence[Tensor | None], into: Tensor) -> None:
        """Copy gradients of the parameters from position ``first`` on into ``into``; None leaves what is there."""
        for place, gradient in enumerate(gradients, first):
            if gradient is not None:
                offset = self.offsets[place]
                into[offset : offset + gradient.numel()] = gradient.reshape(-1)

    def write(self, flat: Tensor) -> None:
        """Set ``.grad`` of every parameter from the flat vector [padded], in the parameter's own type."""
        for parameter, offset in zip(self.parameters, self.offsets, strict=True):
            piece = flat[offset : offset + parameter.numel()].view_as(parameter)
            parameter.grad = piece.to(parameter.dtype) if piece.dtype != parameter.dtype else piece.clone()
