"""Batch normalisation by task: each task has scale, shift and running statistics of its own in a shared trunk."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_task: ContextVar[str | None] = ContextVar("task", default=None)


class TaskNorm(nn.Module):
    """A copy of ``norm`` for each task; inside ``passing(task)``, that task's. Shapes are those of ``norm``.

    A task's copy sees only the passes made for it, so its parameters have the role ``task:<t>``. Raises ValueError
    outside ``passing`` and for a task that it does not have.
    """

    def __init__(self, norm: nn.Module, tasks: Sequence[str]) -> None:
        super().__init__()
        self.of = nn.ModuleDict({task: copy.deepcopy(norm) for task in tasks})

    def forward(self, x: Tensor) -> Tensor:
        task = _task.get()
        if task is None or task not in self.of:
            raise ValueError(
                f"a norm by task is run inside `with passing(task)`, a task of {', '.join(self.of)}: {task}"
            )
        found: Tensor = self.of[task](x)
        return found


def per_task(trunk: nn.Module, tasks: Sequence[str]) -> nn.Module:
    """``trunk`` with every batch norm inside it replaced by one per task, all with the weights that it had."""
    for module in list(trunk.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(module, TaskNorm):
                setattr(module, name, TaskNorm(child, tasks))
    return trunk


@contextmanager
def passing(task: str) -> Iterator[None]:
    """Forward passes inside are made for this task."""
    before = _task.set(task)
    try:
        yield
    finally:
        _task.reset(before)
