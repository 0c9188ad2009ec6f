"""Gradients handed over while a backward pass runs, a few neighbouring parameters at a time, when they are complete.

A call from a backward pass into Python costs as much as copying some thousand numbers, and transformers have hundreds
of small parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mtlfleet.engine.layout import Layout

GROUP = 131_072  # numbers: a group is full when it has as many; its gradients wait in ``.grad`` for the last one


class Arrivals:
    """Which of a layout's gradients a pass has given so far. ``ordered``: no group is handed over before its left
    neighbour; else each as soon as it is complete.

    In the first pass every parameter tells; later, of each group only the one that came last then. Another one coming
    last makes its group wait for the next one's word, or for the end.
    """

    def __init__(self, layout: Layout, *, ordered: bool) -> None:
        self._layout = layout
        self._ordered = ordered
        self._groups = list(_groups([parameter.numel() for parameter in layout.parameters]))
        self._of = [group for group, members in enumerate(self._groups) for _ in members]
        self._last: list[int | None] = [None] * len(self._groups)
        self._waiting: list[int] = []

    def begin(self) -> None:
        """A pass begins."""
        self._waiting = list(range(len(self._groups)))

    @contextmanager
    def hooked(self, take: Callable[[range], None]) -> Iterator[None]:
        """While this lasts, ``take(members)`` is called when ``.grad`` of these parameters is complete; it sets them to
        None."""

        def arrived(index: int) -> Callable[[torch.Tensor], None]:
            return lambda _: self._arrived(index, take)

        handles = []
        try:
            for index, parameter in enumerate(self._layout.parameters):
                parameter.grad = None
                if self._last[self._of[index]] in (None, index):
                    register: Any = parameter.register_post_accumulate_grad_hook
                    handles.append((index, register(arrived(index))))
            yield
        finally:
            for _, handle in handles:
                handle.remove()

    def _arrived(self, index: int, take: Callable[[range], None]) -> None:
        if self._of[index] not in self._waiting:
            raise self._twice(index)
        self._last[self._of[index]] = index
        parameters = self._layout.parameters
        for group in list(self._waiting):
            if all(parameters[member].grad is not None for member in self._groups[group]):
                self._waiting.remove(group)
                take(self._groups[group])
            elif self._ordered:
                break

    def end(self, take: Callable[[range], None]) -> None:
        """The pass is through: what is still waiting is taken as it is. Raises RuntimeError for a gradient that came
        after its group was taken."""
        for group in self._waiting:
            take(self._groups[group])
        self._waiting = []
        for index, parameter in enumerate(self._layout.parameters):
            if parameter.grad is not None:
                raise self._twice(index)

    def _twice(self, index: int) -> RuntimeError:
        names = self._layout.names
        name = names[index] if names else f"number {index}"
        return RuntimeError(f"parameter {name} got its gradient twice in one backward pass (reentrant checkpoint?)")


def _groups(sizes: Sequence[int]) -> Iterator[range]:
    first = numbers = 0
    for index, size in enumerate(sizes):
        numbers += size
        if numbers >= GROUP or index == len(sizes) - 1:
            yield range(first, index + 1)
            first, numbers = index + 1, 0
