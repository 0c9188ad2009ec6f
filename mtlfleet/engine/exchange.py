"""Collectives between ranks, counted in bytes. The only file of the engine that talks to ``torch.distributed``.

gloo's reduce-scatter moves as many bytes as an all-reduce, so on CPU a shard is reduced by one all-to-all and a sum in
rank order; that also makes the bits independent of ring schedules. NCCL's reduce-scatter is a true one and is used
there. Small tensors on gloo travel by all-to-all as well: one round trip, a third of the time of its own all-reduce.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

SMALL = 65_536  # numbers: below this a message's latency outweighs its length
_WIRES = {"fp32": None, "bf16": torch.bfloat16}


def _collective(new: str, old: str) -> Any:
    """torch renamed its flat collectives in 2.13; take the name this torch knows."""
    return getattr(dist, new, None) or getattr(dist, old)


class Exchange:
    """Sums over the ranks of a process group; with no group, one rank and no communication."""

    def __init__(self, group: dist.ProcessGroup | None = None, *, mode: str = "auto", wire: str = "fp32") -> None:
        if wire not in _WIRES:
            raise ValueError(f"wire is one of {', '.join(_WIRES)}; found {wire!r}")
        if mode not in ("auto", "a2a", "reduce_scatter", "allreduce"):
            raise ValueError(f"exchange is one of auto, a2a, reduce_scatter, allreduce; found {mode!r}")
        alone = group is None and not dist.is_initialized()
        self.group = group
        self.world = 1 if alone else dist.get_world_size(group)
        self.rank = 0 if alone else dist.get_rank(group)
        backend = "" if alone else dist.get_backend(group)
        self.mode = ("reduce_scatter" if backend == "nccl" else "a2a") if mode == "auto" else mode
        self.wire = _WIRES[wire]
        self.device = torch.device("cuda") if backend == "nccl" else None
        self.gloo = backend == "gloo"
        self.bytes_sent = 0

    def _count(self, tensor: Tensor, factor: float) -> None:
        self.bytes_sent += int(tensor.numel() * tensor.element_size() * factor * (self.world - 1) / self.world)

    def post(self, sent: Tensor, received: Tensor) -> Any:
        """Start summing ``sent`` [world * n] over ranks; ``settle`` ends it. Both buffers are taken until then."""
        if self.mode == "a2a":
            self._count(sent, 1.0)
            return dist.all_to_all_single(received, sent, group=self.group, async_op=True)
        if self.mode == "reduce_scatter":
            self._count(sent, 1.0)
            shard = received[: sent.numel() // self.world]
            return _collective("reduce_scatter_single", "reduce_scatter_tensor")(
                shard, sent, group=self.group, async_op=True
            )
        self._count(sent, 2.0)
        return dist.all_reduce(sent, group=self.group, async_op=True)

    def settle(self, work: Any, sent: Tensor, received: Tensor, into: Tensor, *, add: bool = False) -> None:
        """Wait, and put this rank's n columns of the sum into ``into`` (or add them to it).

        Rank after rank, so that the bits do not depend on who arrived first.
        """
        work.wait()
        n = into.numel()
        if self.mode == "a2a":
            parts = list(received.view(self.world, n).unbind())
        else:
            parts = [received[:n] if self.mode == "reduce_scatter" else sent[self.rank * n : (self.rank + 1) * n]]
        if not add and len(parts) > 1 and parts[0].dtype == into.dtype:
            torch.add(parts[0], parts[1], out=into)
            parts = parts[2:]
        elif not add:
            into.copy_(parts.pop(0))
        for part in parts:
            into.add_(part)

    def reduce(self, flat: Tensor) -> Tensor:
        """flat [world * n] on each rank -> this rank's n columns of the sum over ranks."""
        if self.world == 1:
            return flat
        sent = flat.clone() if self.mode == "allreduce" else flat
        sent = sent if self.wire is None else sent.to(self.wire)
        received, into = torch.empty_like(sent), flat.new_empty(flat.numel() // self.world)
        self.settle(self.post(sent, received), sent, received, into)
        return into

    def reduce_rows(self, rows: Tensor) -> Tensor:
        """rows [K, world * n] on each rank -> this rank's columns [K, n] of their sum, in one exchange."""
        if self.world == 1:
            return rows
        tasks, n = rows.shape[0], rows.shape[1] // self.world
        by_rank = rows.view(tasks, self.world, n).transpose(0, 1).reshape(-1)
        return self.reduce(by_rank).view(tasks, n)

    def _small(self, tensor: Tensor) -> bool:
        return self.gloo and tensor.numel() * self.world <= SMALL

    def _spread(self, tensor: Tensor) -> Tensor:
        """[world, numel]: every rank's tensor, on every rank, in one round trip."""
        sent = tensor.detach().reshape(1, -1).repeat(self.world, 1)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        self._count(sent, 1.0)
        return received

    def post_sum(self, tensor: Tensor) -> Any:
        """Start summing ``tensor`` over ranks, in place; wait for what it gives."""
        self._count(tensor, 2.0)
        return dist.all_reduce(tensor, group=self.group, async_op=True)

    def post_gather(self, shard: Tensor, whole: Tensor) -> Any:
        """Start collecting every rank's n numbers in ``whole`` [world * n]; wait for what it gives."""
        self._count(whole, 1.0)
        return _collective("all_gather_single", "all_gather_into_tensor")(whole, shard, group=self.group, async_op=True)

    def gather(self, shard: Tensor) -> Tensor:
        """Each rank's n columns -> all world * n of them, on every rank."""
        if self.world == 1:
            return shard
        if self._small(shard):
            return self._spread(shard).reshape(-1)
        whole = torch.empty(shard.numel() * self.world, dtype=shard.dtype, device=shard.device)
        self.post_gather(shard.contiguous(), whole).wait()
        return whole

    def counts(self, mine: Sequence[int], device: torch.device) -> list[list[int]]:
        """Some counts, different on each rank -> for each of them every rank's."""
        told = torch.tensor([float(count) for count in mine], dtype=torch.float64)
        found = self._spread(told) if self.gloo else self.gather(told.to(device)).view(self.world, -1).cpu()
        return [[int(count) for count in column] for column in found.t().tolist()]

    def gather_rows(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """rows [r, n], r = ``sizes[rank]`` -> all of them [R, n], rank after rank."""
        if min(sizes) == max(sizes):
            return self.gather(rows.reshape(-1)).view(-1, rows.shape[1])
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[: rows.shape[0]] = rows
        whole = self.gather(padded.reshape(-1)).view(self.world, max(sizes), rows.shape[1])
        return torch.cat([part[:size] for part, size in zip(whole, sizes, strict=True)])

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, on every rank; in place where the backend allows."""
        if self.world == 1:
            return tensor
        if self._small(tensor):
            rows = self._spread(tensor)
            summed = rows[0].clone()
            for peer in range(1, self.world):
                summed += rows[peer]
            return summed.view_as(tensor)
        moved = tensor.to(self.device) if self.device is not None else tensor
        dist.all_reduce(moved, op=dist.ReduceOp.SUM, group=self.group)
        self._count(moved, 2.0)
        return moved.to(tensor.device)

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over ranks, on every rank."""
        return self.total(tensor) / self.world

    def maximum(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over ranks, on every rank."""
        if self.world == 1:
            return tensor
        moved = tensor.to(self.device) if self.device is not None else tensor.clone()
        dist.all_reduce(moved, op=dist.ReduceOp.MAX, group=self.group)
        return moved.to(tensor.device)

    def union(self, names: Sequence[str]) -> tuple[str, ...]:
        """The sorted union of every rank's names."""
        if self.world == 1:
            return tuple(sorted(names))
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, sorted(names), group=self.group)
        return tuple(sorted({name for mine in found for name in mine}))

    def broadcast(self, tensors: Sequence[Tensor | nn.Parameter]) -> None:
        """Rank 0's values, everywhere."""
        if self.world == 1:
            return
        root = dist.get_global_rank(self.group, 0) if self.group is not None else 0
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=root, group=self.group)
