"""All heads in one backward pass, told apart where their gradients flow into the representation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Headed = tuple[Tensor | None, Sequence[Tensor | None]]  # gradient at z, and of the task's own parameters
Doors = dict[Any, tuple[str, list[int]]]  # operations that read z: whose, and at which of their inputs


def together(
    losses: Mapping[str, Tensor], z: Tensor, own: Mapping[str, Sequence[Tensor]], start: Callable[[Tensor], Tensor]
) -> dict[str, Headed] | None:
    """For each loss its gradient with respect to z and to the task's ``own`` parameters: bit for bit those of a pass of
    its own, for the price of one pass.

    None where the tasks cannot be told apart: an operation between z and the losses serves two of them, a way leads
    past z, or somebody listens to z's gradient.
    """
    doors = _doors(losses, z) if len(losses) > 1 and not z._backward_hooks else None
    if doors is None:
        return None
    flowing: dict[str, Tensor] = {}
    handles = [node.register_hook(_noting(flowing, task, places)) for node, (task, places) in doors.items()]
    try:
        inputs = [z, *(parameter for task in losses for parameter in own[task])]
        starts = [start(loss) for loss in losses.values()]
        found = torch.autograd.grad(list(losses.values()), inputs, starts, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    gradients = iter(found[1:])
    return {task: (flowing.get(task), [next(gradients) for _ in own[task]]) for task in losses}


def _noting(flowing: dict[str, Tensor], task: str, places: Sequence[int]) -> Callable[[Any, Any], None]:
    """Adds up what an operation hands back to z, in the order in which autograd would."""

    def passed(gradients: Sequence[Tensor | None], _: Any) -> None:
        for place in places:
            gradient = gradients[place]
            if gradient is not None:
                flowing[task] = flowing[task] + gradient if task in flowing else gradient

    return passed


def _doors(losses: Mapping[str, Tensor], z: Tensor) -> Doors | None:
    """None where the losses' graphs meet before z."""
    end, owner, doors = z.grad_fn, dict[Any, str](), Doors()
    for task, loss in losses.items():
        stack: list[Any] = [loss.grad_fn]
        while stack:
            node = stack.pop()
            if node is end or owner.get(node, task) != task:
                return None
            if node in owner:
                continue
            owner[node] = task
            places = []
            for place, (parent, output) in enumerate(node.next_functions):
                if parent is end and output == z.output_nr:
                    places.append(place)
                elif parent is not None:
                    stack.append(parent)
            if places:
                doors[node] = task, places
    return doors
