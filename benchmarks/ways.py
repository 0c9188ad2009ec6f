"""The ways of taking one step that are compared: each a function without arguments that gives the bytes it counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from workloads import MODELS, MultiTask

from mtlfleet.engine import GradientEngine
from mtlfleet.engine.gradients import Gram, Step
from mtlfleet.engine.products import block_gram
from mtlfleet.methods import build as build_method

OPTIONS: dict[str, dict[str, object]] = {
    "engine": {},
    "bf16": {"wire": "bf16"},
    "auto": {"backward": "auto"},
    "batched": {"backward": "batched"},
    "ub": {"approximate": "ub"},
    "every10": {"every": 10, "backward": "auto"},
}


def numbers(kind: str) -> int:
    """P, the trunk's parameters."""
    return sum(p.numel() for p in MODELS[kind][0]().parameters())


def resident_words() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 4


def build(way: str, kind: str, tasks: int, rank: int, world: int, *, watch: bool = False) -> Callable[[], int]:
    """A step of one way; with ``watch`` its first call stops after the forward pass and gives the resident words
    then."""
    model = MultiTask(kind, tasks)
    module: torch.nn.Module = model
    if way == "plain" and world > 1:
        module = DistributedDataParallel(model, gradient_as_bucket_view=True)
    x, y = model.draw(rank)
    update = _update(way, model, world)
    first = watch

    def step() -> int:
        nonlocal first
        losses, z = module(x, y)
        if first:
            first = False
            return resident_words()
        sent = update(losses, z)
        model.zero_grad(set_to_none=True)
        return sent

    return step


def _update(way: str, model: MultiTask, world: int) -> Callable[[dict[str, Tensor], Tensor], int]:
    if way == "plain":
        return lambda losses, _: _plain(losses)
    if way == "bare":
        return lambda losses, _: bare(model, losses)
    if way == "naive":
        return lambda losses, _: naive(model, losses, world)
    if way == "torchjd":
        return torchjd
    engine = GradientEngine(model, "mgda", **OPTIONS[way])  # type: ignore[arg-type]
    return lambda losses, z: engine.step(losses, features=z).bytes_sent


def _plain(losses: dict[str, Tensor]) -> int:
    torch.stack(list(losses.values())).sum().backward()
    return 0


def bare(model: MultiTask, losses: dict[str, Tensor]) -> int:
    """torch's own K passes, their gradients dropped: no Gram, no message, nothing written. What no exact way by passes
    can fall below."""
    for k, loss in enumerate(losses.values()):
        inputs = [*model.shared, *model.heads[k].parameters()]
        torch.autograd.grad(loss, inputs, retain_graph=k + 1 < len(losses))
    return 0


def naive(model: MultiTask, losses: dict[str, Tensor], world: int) -> int:
    """K passes, the dense K x P matrix averaged by one all-reduce, weights on every rank, heads by a second one."""
    shared, rows, own = model.shared, [], []
    for k, loss in enumerate(losses.values()):
        mine = list(model.heads[k].parameters())
        found = torch.autograd.grad(loss, [*shared, *mine], retain_graph=k + 1 < len(losses))
        rows.append(torch.cat([g.reshape(-1) for g in found[: len(shared)]]))
        own.append((mine, found[len(shared) :]))
    jacobian = torch.stack(rows)
    del rows
    sent = 0
    if world > 1:
        flat = torch.cat([g.reshape(-1) for _, found in own for g in found])
        dist.all_reduce(jacobian)
        dist.all_reduce(flat)
        jacobian /= world
        sent = int(2 * (jacobian.numel() + flat.numel()) * 4 * (world - 1) / world)
    method: Any = build_method("mgda")
    weights = method.weigh(Gram(block_gram(jacobian)), torch.ones(len(losses)), None, Step()).weights
    direction = weights.to(jacobian.dtype) @ jacobian
    cursor = 0
    for p in shared:
        p.grad = direction[cursor : cursor + p.numel()].view_as(p)
        cursor += p.numel()
    for mine, found in own:
        for p, g in zip(mine, found, strict=True):
            p.grad = g
    return sent


def torchjd(losses: dict[str, Tensor], z: Tensor) -> int:
    """TorchJD's own recipe for heads on one representation, with its MGDA."""
    from torchjd.aggregation import MGDA
    from torchjd.autojac import jac_to_grad, mtl_backward

    mtl_backward(list(losses.values()), features=z, parallel_chunk_size=1)
    jac_to_grad([p for p in _leaves(z) if hasattr(p, "jac")], MGDA())
    return 0


def _leaves(z: Tensor) -> list[Tensor]:
    found, seen, stack = [], set(), [z.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    return found
