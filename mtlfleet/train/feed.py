"""Which samples a rank sees at a step: a function of (seed, step, rank, world) and nothing else.

A global batch is the same set of samples, in the same order, whatever the number of ranks; ranks take contiguous parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from mtlfleet.datasets.base import Arrays, Samples
from mtlfleet.engine.contract import Batch
from mtlfleet.plan.streams import stream


@dataclass(frozen=True)
class Part:
    """A rank's part of one global batch: the samples, and how many the whole batch has."""

    batch: Batch
    global_size: int
    fully_labelled: bool


@dataclass(frozen=True)
class Feed:
    """Training batches. An epoch is a permutation keyed by (seed, epoch), cut into ceil(n / global_batch) batches; the
    last one may be smaller."""

    samples: Samples
    tasks: tuple[str, ...]
    global_batch: int
    seed: int
    rank: int
    world: int
    augment: Callable[[Arrays, int], Arrays] | None = None  # of a dataset: samples and the epoch's seed

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.samples) / self.global_batch)

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def size(self, step: int) -> int:
        """Samples in the global batch of a step, over all ranks."""
        return min(self.global_batch, len(self.samples) - step % self.steps_per_epoch * self.global_batch)

    def at(self, step: int) -> Part:
        """This rank's part of the global batch of a step (0-based)."""
        order = _order(len(self.samples), stream(self.seed, "order", self.epoch(step)))
        start = (step % self.steps_per_epoch) * self.global_batch
        whole = order[start : start + self.global_batch]
        arrays = self.samples.fetch(np.array_split(whole, self.world)[self.rank])
        if self.augment is not None:
            arrays = self.augment(arrays, stream(self.seed, "augment", self.epoch(step)))
        return Part(to_batch(arrays, self.tasks), len(whole), arrays.present is None)


@lru_cache(maxsize=4)
def _order(size: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).permutation(size)


def sweep(samples: Samples, tasks: tuple[str, ...], rank: int, world: int, size: int = 512) -> Iterator[Batch]:
    """This rank's part of a whole split, in order, in batches; every sample is seen by exactly one rank."""
    mine = np.array_split(np.arange(len(samples)), world)[rank]
    for start in range(0, len(mine), size):
        yield to_batch(samples.fetch(mine[start : start + size]), tasks)


def to_batch(arrays: Arrays, tasks: tuple[str, ...]) -> Batch:
    """numpy to torch, without copying where the arrays own their memory."""
    index = torch.from_numpy(np.ascontiguousarray(arrays.index))
    everyone = torch.ones(len(index), dtype=torch.bool)
    if isinstance(arrays.inputs, np.ndarray):
        inputs: torch.Tensor | dict[str, torch.Tensor] = torch.from_numpy(arrays.inputs)
    else:
        inputs = {task: torch.from_numpy(arrays.inputs[task]) for task in tasks}
    targets = {task: torch.from_numpy(arrays.targets[task]) for task in tasks}
    present = {task: everyone if arrays.present is None else torch.from_numpy(arrays.present[task]) for task in tasks}
    return Batch(inputs, targets, present, index)
