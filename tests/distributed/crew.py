"""Real ranks for tests: W processes in a gloo group that run one function and send back what it gives."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mtlfleet.engine import collect, factored
from mtlfleet.train import Communicator

# Ranks are forked from a process that has imported torch and run nothing: a fresh interpreter each would spend more
# time on imports than on what is tested.
multiprocessing.set_forkserver_preload(["torch.distributed", "torch.func", "mtlfleet.train", "mtlfleet.testing"])
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _member(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/meeting", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        torch.save(function(rank, world, *arguments), f"{folder}/{rank}.pt")
    finally:
        Communicator.leave()


def crew_or_alone(world: int, patch: pytest.MonkeyPatch, function: Callable[..., Any]) -> list[Any]:
    """As ``crew``, but one rank is this process: none is started. What the function sets in the engine's
    modules is set back."""
    if world > 1:
        return crew(world, function)
    for module, name in ((collect, "TOGETHER"), (collect, "WHOLE"), (collect, "bucket_size"), (factored, "gain")):
        patch.setattr(module, name, getattr(module, name))
    return [function(0, 1)]


def crew(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``function(rank, world, *arguments)`` on each of ``world`` gloo ranks; the results, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_member, (world, folder, function, arguments), nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
