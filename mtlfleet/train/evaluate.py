"""Metrics of a split: gathered on each rank, merged over ranks, the same number for every world size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.datasets.base import Samples, Task
from mtlfleet.datasets.metrics import Accumulator, accumulators
from mtlfleet.engine.contract import Context
from mtlfleet.train.communicator import Communicator
from mtlfleet.train.feed import sweep

Key = tuple[str, str]  # task, metric


@dataclass(frozen=True)
class Measured:
    """One metric of one task on one split, over ``n`` elements."""

    task: str
    metric: str
    value: float
    n: int


def evaluate(
    model: nn.Module, samples: Samples, tasks: Sequence[Task], ctx: Context, comm: Communicator
) -> tuple[Measured, ...]:
    """All metrics of all tasks over a whole split, in the tasks' order. The model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    kept = {(task.name, metric): acc for task in tasks for metric, acc in accumulators(task).items()}
    states = {key: acc.empty() for key, acc in kept.items()}
    names = tuple(task.name for task in tasks)
    with torch.no_grad():
        for batch in sweep(samples, names, comm.rank, comm.world):
            moved = batch.to(comm.device)
            output = model(moved, ctx)
            for (task, metric), acc in kept.items():
                states[task, metric] = acc.update(
                    states[task, metric], output.predictions[task], moved.targets[task], moved.present[task]
                )
    model.train(was_training)
    merged = _merge(kept, states, comm)
    return tuple(Measured(*key, acc.value(merged[key]), acc.count(merged[key])) for key, acc in kept.items())


def _merge(kept: Mapping[Key, Accumulator], states: Mapping[Key, Tensor], comm: Communicator) -> dict[Key, Tensor]:
    """The state of all ranks together, by key: sums in one all-reduce, rows of those that need them all."""
    joined = {key: comm.join(states[key]) for key, acc in kept.items() if acc.joins}
    summed = [key for key, acc in kept.items() if not acc.joins]
    if summed:
        total = comm.total(torch.cat([states[key].flatten() for key in summed]))
        start = 0
        for key in summed:
            stop = start + states[key].numel()
            joined[key] = total[start:stop].view_as(states[key])
            start = stop
    return joined


def mean_skill(measured: Sequence[Measured], tasks: Sequence[Task]) -> float:
    """Mean over tasks of the skill of their primary metric: what chooses the checkpoint. Minus infinity if any is
    not finite."""
    values: Mapping[tuple[str, str], float] = {(m.task, m.metric): m.value for m in measured}
    skills = [task.skill(values[task.name, task.primary.name]) for task in tasks]
    mean = sum(skills) / len(skills)
    return mean if math.isfinite(mean) else -math.inf
