"""How a trial's ranks talk: rank, world and four verbs. The body of a trial sees this and never Ray."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Communicator:
    """One rank of ``world``; ``group`` is None for a process that is alone."""

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def from_environment(cls, device: str = "auto") -> Communicator:
        """Under torchrun: join the group that RANK and WORLD_SIZE describe. Otherwise: alone."""
        if "RANK" not in os.environ:
            return cls(device=pick_device(device))
        chosen = pick_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), dist.group.WORLD, chosen)

    @staticmethod
    def leave() -> None:
        """Out of the default group, once whoever held this communicator has let go of it.

        gloo's worker threads keep the last collective's tensors a moment longer than its caller. When the interpreter
        ends in that moment, the thread's wait for the GIL aborts the process; the group joins its threads only when
        nothing refers to it any more, reference cycles of a finished trial included.
        """
        if dist.is_initialized():
            gc.collect()
            dist.destroy_process_group()

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, on every rank."""
        if self.world == 1:
            return tensor
        moved = tensor.to(self.device) if self.device.type == "cuda" else tensor
        dist.all_reduce(moved, group=self.group)
        return moved.to(tensor.device)

    def collect(self, tensor: Tensor) -> Tensor:
        """[world, ...]: every rank's tensor, on every rank."""
        if self.world == 1:
            return tensor[None]
        moved = tensor.to(self.device) if self.device.type == "cuda" else tensor
        rows = [torch.empty_like(moved) for _ in range(self.world)]
        dist.all_gather(rows, moved, group=self.group)
        return torch.stack(rows).to(tensor.device)

    def join(self, tensor: Tensor) -> Tensor:
        """[n, ...]: the rows of all ranks, rank after rank, on every rank; ranks may have different numbers of them."""
        if self.world == 1:
            return tensor
        counts = self.collect(torch.tensor([len(tensor)], dtype=torch.int64)).flatten().tolist()
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        return torch.cat([rows[:count] for rows, count in zip(self.collect(padded), counts, strict=True)])


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is some, else CPU. One rank sees one device, its first."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda:0" if device == "cuda" else device)
