"""Metrics of a split: summed on each rank, merged by one all-reduce, the same number for every world size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mtlfleet.datasets.base import Samples, Task
from mtlfleet.datasets.metrics import accumulators
from mtlfleet.engine.contract import Context
from mtlfleet.train.communicator import Communicator
from mtlfleet.train.feed import sweep


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
    merged = comm.total(torch.cat([states[key].flatten() for key in kept])) if kept else torch.zeros(0)
    found, cursor = [], 0
    for (task, metric), acc in kept.items():
        size = states[task, metric].numel()
        state = merged[cursor : cursor + size].view_as(states[task, metric])
        cursor += size
        found.append(Measured(task, metric, acc.value(state), acc.count(state)))
    return tuple(found)


def mean_skill(measured: Sequence[Measured], tasks: Sequence[Task]) -> float:
    """Mean over tasks of the skill of their primary metric: what chooses the checkpoint. Minus infinity if any is
    not finite."""
    values: Mapping[tuple[str, str], float] = {(m.task, m.metric): m.value for m in measured}
    skills = [task.skill(values[task.name, task.primary.name]) for task in tasks]
    mean = sum(skills) / len(skills)
    return mean if math.isfinite(mean) else -math.inf
