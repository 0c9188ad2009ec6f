"""What the engine asks of a user's modules and options before it takes them, and a way to leave them as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mtlfleet.engine.agreement import BACKWARDS
from mtlfleet.engine.approximate import APPROXIMATIONS
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Needs
from mtlfleet.errors import EngineRefused


def refuse_wrappers(model: nn.Module) -> None:
    """Raise EngineRefused if the model or any part of it is wrapped for data parallelism by torch."""
    for name, module in model.named_modules():
        if isinstance(module, DistributedDataParallel | DataParallel):
            what = type(module).__name__
            raise EngineRefused(
                f"the model{f' part `{name}`' if name else ''} is wrapped in {what}; the engine needs plain modules",
                notes=[
                    ("several backward passes through the wrapper fail, or silently leave other gradients on each rank")
                ],
                help="pass the wrapped module itself (`model.module`): the engine averages over ranks on its own",
            )


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Forward passes inside leave the model's buffers (running statistics) as they were."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def average_buffers(model: nn.Module, exchange: Exchange) -> None:
    """Running statistics become their mean over ranks: before an evaluation whose ranks should see one model."""
    floating = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if floating and exchange.world > 1:
        flat = exchange.mean(torch.cat([buffer.flatten().to(torch.float32) for buffer in floating]))
        cursor = 0
        for buffer in floating:
            buffer.copy_(flat[cursor : cursor + buffer.numel()].view_as(buffer))
            cursor += buffer.numel()


def cut_shared(parameters: Sequence[nn.Parameter], norm: float, limit: float | None) -> float:
    """Shrink the gradients of ``parameters``, whose joint norm is ``norm``, to at most ``limit``; gives the norm after.

    No communication: every rank holds the same gradients.
    """
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if limit is not None and math.isnan(norm):
        norm = float(torch.stack(torch._foreach_norm(found)).norm())
    if limit is None or norm <= limit:
        return norm
    torch._foreach_mul_(found, limit / norm)
    return limit


def check_options(backward: str, every: int, chunk: int, approximate: str | None) -> None:
    """Raise ValueError for an option that does not exist."""
    if backward not in BACKWARDS:
        raise ValueError(f"backward is one of {', '.join(BACKWARDS)}; found {backward!r}")
    if every < 1 or chunk < 0:
        raise ValueError(f"every is at least 1 and chunk at least 0; found {every} and {chunk}")
    if approximate not in (None, *APPROXIMATIONS):
        raise ValueError(f"approximate is None or one of {', '.join(APPROXIMATIONS)}; found {approximate!r}")


def refuse_rows(method: Any, backward: str, approximate: str | None) -> None:
    """Raise EngineRefused for a method that asks for task gradients where there will be none."""
    what = f"approximate={approximate!r}" if approximate else "backward='factored'" if backward == "factored" else ""
    if what and method.needs is Needs.ROWS:
        raise EngineRefused(
            f"method {method.name!r} looks at the task gradients themselves, and {what} computes only their Gram",
            help="leave the option out: the default is exact and gives every method what it asks for",
        )


def batches_of(method: Any) -> int:
    """How many batches' losses a step of this method takes."""
    return int(getattr(method, "batches", 1))


def expect_batches(method: Any, given: int) -> None:
    if given != batches_of(method):
        raise ValueError(
            f"method {method.name!r} takes losses of {batches_of(method)} batches in a step; found {given}"
        )


def refuse_unweighted(method: Any, every: int) -> NoReturn:
    """Raise EngineRefused: the step gave no weights that the next ones could use again."""
    raise EngineRefused(
        f"every={every} reuses a step's task weights, and method {method.name!r} has none",
        help="leave `every` out, or take a method that weights tasks",
    )


def declared(shared: str | nn.Module | Sequence[nn.Parameter]) -> Sequence[nn.Parameter] | None:
    if isinstance(shared, nn.Module):
        return tuple(shared.parameters())
    if isinstance(shared, str):
        if shared != "auto":
            raise ValueError(f"shared is 'auto', a module, or parameters; found {shared!r}")
        return None
    return tuple(shared)
