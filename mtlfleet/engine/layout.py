"""Which parameter sits where: a flat vector of P numbers, cut into buckets, and each bucket into one part per rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors

LARGEST = 524_288  # numbers in a bucket, 2 MiB: beyond this a longer message saves little and takes memory


class Piece(NamedTuple):
    """A stretch of one parameter that lies in one bucket; all offsets count numbers."""

    bucket: int
    at: int  # in the bucket
    start: int  # in the parameter
    stop: int


@dataclass(frozen=True)
class Layout:
    """Parameters in a fixed order, flattened; ``padded`` = P rounded up to whole columns of every rank.

    Bucket b is ``flat[b * bucket : (b + 1) * bucket]``; rank r owns its r-th part of ``world`` equal ones, and a rank's
    shard is those parts, bucket after bucket: ``shard`` = n numbers. The order is equal on every rank, so a column of
    the shard means the same parameter everywhere that the same bucket size is used.
    """

    parameters: tuple[nn.Parameter, ...]
    names: tuple[str, ...]
    offsets: tuple[int, ...]
    size: int
    world: int
    bucket: int

    @classmethod
    def of(
        cls, parameters: Sequence[nn.Parameter], world: int, *, names: Sequence[str] = (), bucket: int | None = None
    ) -> Layout:
        """With no ``bucket`` all parameters are one."""
        offsets, size = [], 0
        for parameter in parameters:
            offsets.append(size)
            size += parameter.numel()
        padded = -(-size // world) * world
        chosen = padded if bucket is None else max(world, bucket // world * world)
        return cls(tuple(parameters), tuple(names), tuple(offsets), size, world, min(chosen, padded))

    @property
    def padded(self) -> int:
        return self.shard * self.world

    @property
    def shard(self) -> int:
        return -(-self.size // self.world)

    @property
    def buckets(self) -> int:
        return -(-self.padded // self.bucket) if self.bucket else 0

    def span(self, bucket: int) -> tuple[int, int]:
        """Where a bucket starts and stops in the flat vector; the last one may be shorter."""
        return bucket * self.bucket, min((bucket + 1) * self.bucket, self.padded)

    def pieces(self, index: int) -> Iterator[Piece]:
        """The stretches of parameter ``index``, bucket after bucket."""
        offset, start, size = self.offsets[index], 0, self.parameters[index].numel()
        while start < size:
            bucket, at = divmod(offset + start, self.bucket)
            stop = min(size, start + self.bucket - at)
            yield Piece(bucket, at, start, stop)
            start = stop

    def columns(self, rank: int) -> Iterator[tuple[int, int, int, int]]:
        """(parameter, first of its numbers, column of the shard, how many) for every stretch that ``rank`` owns."""
        for index in range(len(self.parameters)):
            for bucket, at, start, stop in self.pieces(index):
                first, last = self.span(bucket)
                part = (last - first) // self.world
                low, high = max(at, rank * part), min(at + stop - start, (rank + 1) * part)
                if low < high:
                    yield index, start + low - at, first // self.world + low - rank * part, high - low

    def dtype(self) -> torch.dtype:
        """float32, or the parameters' type if wider."""
        return torch.promote_types(self.parameters[0].dtype, torch.float32)

    def empty(self, *rows: int, of: int | None = None) -> Tensor:
        """A zeroed tensor [*rows, padded] (or [*rows, of]) on the parameters' device."""
        size = self.padded if of is None else of
        return torch.zeros(*rows, size, device=self.parameters[0].device, dtype=self.dtype())

    def pack(self, gradients: Sequence[Tensor | None], into: Tensor) -> Tensor:
        """Copy gradients (None = zeros) into the flat vector ``into`` [padded]; the padding stays zero."""
        if all(gradient is not None and gradient.dtype == into.dtype for gradient in gradients):
            torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None], out=into[: self.size])
            return into
        for parameter, offset, gradient in zip(self.parameters, self.offsets, gradients, strict=True):
            place = into[offset : offset + parameter.numel()]
            if gradient is None:
                place.zero_()
            else:
                place.copy_(gradient.reshape(-1))
        return into

    def pack_from(self, first: int, gradients: Sequence[Tensor | None], into: Tensor) -> None:
        """Add gradients of the parameters from position ``first`` on to ``into``; None leaves what is there."""
        there = [gradient.reshape(-1) for gradient in gradients if gradient is not None]
        if len(there) == len(gradients) > 1 and all(gradient.dtype == into.dtype for gradient in there):
            stop = first + len(there) - 1
            into[self.offsets[first] : self.offsets[stop] + there[-1].numel()] += torch.cat(there)
            return
        for place, gradient in enumerate(gradients, first):
            if gradient is not None:
                offset = self.offsets[place]
                into[offset : offset + gradient.numel()] += gradient.reshape(-1)

    def views(self, flat: Tensor) -> Sequence[Tensor]:
        """Each parameter's part of the flat vector [padded], in its shape."""
        found: Sequence[Tensor] = _unflatten_dense_tensors(flat, self.parameters)  # type: ignore[no-untyped-call]
        return found

    def write(self, flat: Tensor) -> None:
        """Set ``.grad`` of every parameter to its view of the flat vector [padded], in the parameter's own type."""
        for parameter, piece in zip(self.parameters, self.views(flat), strict=True):
            parameter.grad = piece if piece.dtype == parameter.dtype else piece.to(parameter.dtype)


def bucket_size(size: int, world: int) -> int:
    """Numbers in a bucket: two in flight, sent and received, fit in P; all of about one length, as long as may be."""
    count = max(4, -(-size // LARGEST))
    return -(-size // (count * world)) * world
