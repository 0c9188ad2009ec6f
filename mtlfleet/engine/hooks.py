"""Gradients are handed over while a backward pass runs, each as soon as it is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from mtlfleet.engine.layout import Layout


@contextmanager
def handed_over(layout: Layout, arrived: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While this lasts, ``arrived(index, parameter)`` is called when ``.grad`` of a layout's parameter is complete."""

    def hook(index: int) -> Callable[[Tensor], None]:
        return lambda parameter: arrived(index, parameter)

    handles = []
    try:
        for index, parameter in enumerate(layout.parameters):
            parameter.grad = None
            register: Any = parameter.register_post_accumulate_grad_hook
            handles.append(register(hook(index)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def twice(layout: Layout, index: int) -> RuntimeError:
    """What to raise when a parameter's gradient comes a second time in one pass."""
    name = layout.names[index] if layout.names else f"number {index}"
    return RuntimeError(f"parameter {name} got its gradient twice in one backward pass (reentrant checkpoint?)")
