"""Which parameters which tasks reach, read off the autograd graph and agreed by all ranks.

Nobody has to say what is shared: a parameter that two losses reach is, one that a single loss reaches belongs to
its task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtlfleet.engine.exchange import Exchange
from mtlfleet.errors import EngineRefused


def nodes(losses: Iterable[Tensor], stop: Tensor | None = None) -> Iterator[Any]:
    """Each node of these losses' graphs once, without a backward; with ``stop``, none behind that tensor alone."""
    seen: set[object] = {None} if stop is None else {None, stop.grad_fn}
    stack: list[Any] = [loss.grad_fn for loss in losses]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            yield node
            stack.extend(parent for parent, _ in node.next_functions)


def reached(loss: Tensor, stop: Tensor | None = None) -> set[int]:
    """ids of the leaf tensors that ``loss`` depends on, by a walk over its graph (no backward is run).

    With ``stop``, only those that it reaches by a way that does not lead through that tensor. Raises EngineRefused for
    a graph with a reentrant checkpoint.
    """
    leaves: set[int] = set()
    for node in nodes([loss], stop):
        if type(node).__name__ == "CheckpointFunctionBackward":
            raise EngineRefused(
                "a reentrant checkpoint hides the parameters inside it, and lets no pass through that names its inputs",
                help="checkpoint(..., use_reentrant=False) computes the same",
            )
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.add(id(variable))
    return leaves


def numbers_of(losses: Iterable[Tensor]) -> float:
    """How many numbers the operations of these losses' graphs gave: about what a graph keeps alive. Infinite where
    torch does not tell."""
    total = 0.0
    for node in nodes(losses):
        told = getattr(node, "_input_metadata", None)
        total += math.inf if told is None else sum(math.prod(output.shape) for output in told)
    return total


@dataclass(frozen=True)
class Reach:
    """The agreed answer: ``shared`` parameters, and for each task the ones only it reaches; in the model's order."""

    tasks: tuple[str, ...]
    shared: tuple[nn.Parameter, ...]
    own: Mapping[str, tuple[nn.Parameter, ...]]
    shared_names: tuple[str, ...]
    own_names: Mapping[str, tuple[str, ...]]
    names: Mapping[str, frozenset[str]]  # task -> every parameter its loss reaches, on any rank

    @property
    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        """All task-specific parameters, task after task."""
        return tuple(parameter for task in self.tasks for parameter in self.own[task])


def lies_behind(z: Tensor, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> bool:
    """Whether every way from these losses to a shared parameter leads through ``z``."""
    ids = {id(parameter) for parameter in shared}
    return z.grad_fn is not None and not any(reached(loss, stop=z) & ids for loss in losses.values())


def discover(
    model: nn.Module,
    losses: Mapping[str, Tensor],
    tasks: Sequence[str],
    exchange: Exchange,
    declared: Sequence[nn.Parameter] | None = None,
    before: Reach | None = None,
) -> Reach:
    """Find shared and task parameters. Ranks see different samples, hence perhaps different graphs: the K x #parameters
    bitmap is combined by maximum, and a parameter that any rank's loss reaches counts for all.

    A task that is absent on this rank counts as reaching what it reached ``before``. ``declared`` overrides what is
    shared; a parameter that is reached but in neither set is treated as its task's own when one task reaches it, as
    shared when several do.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    bitmap = torch.zeros(len(tasks), len(named), dtype=torch.float32)
    for row, task in enumerate(tasks):
        if task in losses:
            leaves = reached(losses[task])
            bitmap[row] = torch.tensor([float(id(p) in leaves) for _, p in named])
        elif before is not None:
            bitmap[row] = torch.tensor([float(name in before.names.get(task, ())) for name, _ in named])
    bitmap = exchange.maximum(bitmap)
    # With one task everything it reaches is the trunk: there is nothing to balance and nothing to tell apart.
    enough = min(2, len(tasks))
    counts = bitmap.sum(0)
    forced = {id(p) for p in declared} if declared is not None else set()
    is_shared = [bool(counts[i] >= enough) or (id(p) in forced and counts[i] > 0) for i, (_, p) in enumerate(named)]
    own: dict[str, tuple[nn.Parameter, ...]] = {}
    own_names: dict[str, tuple[str, ...]] = {}
    for row, task in enumerate(tasks):
        mine = [i for i in range(len(named)) if bitmap[row, i] and not is_shared[i]]
        own[task] = tuple(named[i][1] for i in mine)
        own_names[task] = tuple(named[i][0] for i in mine)
    shared = [i for i in range(len(named)) if is_shared[i]]
    names = {
        task: frozenset(named[i][0] for i in range(len(named)) if bitmap[row, i]) for row, task in enumerate(tasks)
    }
    return Reach(
        tuple(tasks), tuple(named[i][1] for i in shared), own, tuple(named[i][0] for i in shared), own_names, names
    )
