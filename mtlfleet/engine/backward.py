"""K backward passes over one forward graph, each task's gradient handed on before the next is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlfleet.engine.discovery import Reach

Gradients = Sequence[Tensor | None]


def sequential(
    losses: Mapping[str, Tensor], reach: Reach, deliver: Callable[[int, str, Gradients, Gradients], None]
) -> None:
    """For each task in order: gradients of its loss with respect to the shared and to its own parameters.

    ``deliver(k, task, shared, own)`` is called before the next pass starts, so at most one task's whole gradient is
    alive. A task that is absent on this rank delivers None for every parameter: zeros, at no cost.
    """
    present = [task for task in reach.tasks if task in losses]
    for k, task in enumerate(reach.tasks):
        own = reach.own[task]
        if task not in losses or not losses[task].requires_grad:
            deliver(k, task, [None] * len(reach.shared), [None] * len(own))
            continue
        inputs = (*reach.shared, *own)
        found = torch.autograd.grad(losses[task], inputs, retain_graph=task != present[-1], allow_unused=True)
        deliver(k, task, found[: len(reach.shared)], found[len(reach.shared) :])


def weighted(
    losses: Mapping[str, Tensor], reach: Reach, weights: Mapping[str, float], heads: str
) -> tuple[Gradients, Gradients]:
    """One backward of sum_k weights[k] * loss_k: gradients of the shared and of all task parameters.

    With ``heads == "unweighted"`` the task parameters get the gradients of the plain losses instead, by a second pass
    that ends at the heads.
    """
    inputs: tuple[nn.Parameter, ...] = (*reach.shared, *reach.own_parameters)
    usable = [task for task in reach.tasks if task in losses and losses[task].requires_grad]
    if not usable:
        return [None] * len(reach.shared), [None] * len(reach.own_parameters)
    total = torch.stack([losses[task] * weights[task] for task in usable]).sum()
    plain = heads == "unweighted" and bool(reach.own_parameters)
    found = torch.autograd.grad(total, inputs, retain_graph=plain, allow_unused=True)
    shared, own = found[: len(reach.shared)], found[len(reach.shared) :]
    if plain:
        unweighted = torch.stack([losses[task] for task in usable]).sum()
        own = torch.autograd.grad(unweighted, reach.own_parameters, allow_unused=True)
    return shared, own
