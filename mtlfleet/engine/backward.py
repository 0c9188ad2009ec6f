"""Passes over one forward graph: K for the task gradients, one for a weighted sum of losses.

Every pass starts from ``seed`` (loss scale / world), so that sums over ranks are means and nothing is
divided afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.heads import together
from mtlfleet.errors import EngineRefused

Gradients = Sequence[Tensor | None]
AT_ONCE = 65_536  # numbers: gradients at the representation that are alive together if they are no more
DONATED = "donated buffer"  # in torch's error when a compiled part's saved tensors are asked for again


@dataclass
class Graph:
    """One batch's losses on this rank. ``z``: the tensor behind which every shared parameter lies, when it is known."""

    losses: Mapping[str, Tensor]
    reach: Reach
    world: int = 1
    scale: float = 1.0  # the loss scale of half precision
    z: Tensor | None = None
    width: int = 0  # numbers of z per sample, on whichever rank has samples
    keep: bool = False  # a further pass will follow the K
    _heads: dict[str, tuple[Tensor | None, Gradients]] | None = field(default=None, repr=False)

    @property
    def seed(self) -> float:
        """What a loss's gradient starts from."""
        return self.scale / self.world

    @property
    def present(self) -> tuple[str, ...]:
        """Tasks that have a differentiable loss on this rank, in order."""
        return tuple(t for t in self.reach.tasks if t in self.losses and self.losses[t].requires_grad)

    @property
    def last(self) -> str | None:
        """The task after whose pass the graph may go."""
        return None if self.keep or not self.present else self.present[-1]

    def start(self, root: Tensor) -> Tensor:
        """The first gradient of a pass that starts at ``root``."""
        return torch.full_like(root, self.seed)

    def heads(self) -> Mapping[str, tuple[Tensor | None, Gradients]]:
        """For each task here: gradient of its loss with respect to z, and to its own parameters. Heads run once."""
        if self._heads is None:
            here = {task: self.losses[task] for task in self.present}
            found = None if self.z is None else together(here, self.z, self.reach.own, self.start)
            self._heads = found if found is not None else {task: self._head(task) for task in here}
        return self._heads

    def _head(self, task: str) -> tuple[Tensor | None, Gradients]:
        if self.z is None:
            raise RuntimeError("no representation is known")
        if self._heads is not None:
            return self._heads[task]
        loss, inputs = self.losses[task], (self.z, *self.reach.own[task])
        dz, *own = torch.autograd.grad(loss, inputs, self.start(loss), retain_graph=True, allow_unused=True)
        return dz, own

    def roots(
        self, *, straight: bool = False
    ) -> Iterator[tuple[int, str, Tensor | None, Tensor | None, Gradients | None]]:
        """(k, task, where the trunk's pass starts, with what, gradients of the own parameters if already known).

        ``straight``: head and trunk in one call, the same operations in the same order; small models save the call.
        """
        present = set(self.present)
        if self.z is not None and not straight and len(present) * self.z.numel() <= AT_ONCE:
            self.heads()
        for k, task in enumerate(self.reach.tasks):
            if task not in present:
                yield k, task, None, None, None
            elif self.z is not None and not (straight and self._heads is None):
                dz, own = self._head(task)  # one at a time, unless they are small: K of them are K * B * D numbers
                yield k, task, None if dz is None else self.z, dz, own
            else:
                loss = self.losses[task]
                yield k, task, loss, self.start(loss), None


def batched(graph: Graph, inputs: Sequence[Tensor], chunk: int) -> Iterator[tuple[int, str, Gradients]]:
    """Gradients of ``chunk`` tasks per pass (``is_grads_batched``), handed out task after task.

    Raises EngineRefused where an operator of the model has no rule for that: nothing is substituted.
    """
    tasks = [(k, task) for k, task in enumerate(graph.reach.tasks) if task in graph.present]
    for first in range(0, len(tasks), chunk):
        some = tasks[first : first + chunk]
        root, starts = _starts(graph, [task for _, task in some])
        try:
            found: Gradients = torch.autograd.grad(
                root, inputs, starts, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
        except RuntimeError as problem:
            if DONATED in str(problem):
                raise
            raise EngineRefused(
                f"backward='batched': an operation of this model cannot be batched: {str(problem).splitlines()[0]}",
                notes=[
                    "torch.compile with inductor, and custom autograd functions that leave torch, have no batching rule"
                ],
                help="use backward='sequential', which computes the same gradients",
            ) from problem
        for row, (k, task) in enumerate(some):
            yield k, task, [None if g is None else g[row] for g in found]


def _starts(graph: Graph, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
    if graph.z is not None:
        z = graph.z
        return z, torch.stack(
            [dz if (dz := graph.heads()[task][0]) is not None else torch.zeros_like(z) for task in tasks]
        )
    losses = torch.stack([graph.losses[task] for task in tasks])
    return losses, torch.eye(len(tasks), dtype=losses.dtype, device=losses.device) * graph.seed


def weighted(graph: Graph, weights: Mapping[str, float], heads: str) -> tuple[Tensor | None, Tensor | None]:
    """(sum_k weights[k] * loss_k, what the own parameters' second pass starts from), each None when there is none.

    With ``heads == "unweighted"`` the task parameters get the gradients of the plain losses instead, by a second pass
    that ends at the heads.
    """
    usable = graph.present
    if not usable:
        return None, None
    total = torch.stack([graph.losses[task] * weights[task] for task in usable]).sum()
    if heads != "unweighted" or not graph.reach.own_parameters:
        return total, None
    return total, torch.stack([graph.losses[task] for task in usable]).sum()
