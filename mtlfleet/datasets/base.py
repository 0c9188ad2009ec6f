"""A dataset: tasks, three disjoint splits, samples by index. No torch at import: the planner reads its facts.

The trainer owns order, batches and ranks; a dataset answers "these samples of that split, please".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from mtlfleet.plan.tasks import Facts, Task
from mtlfleet.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from mtlfleet.engine.contract import Batch

__all__ = ["ArraySamples", "Arrays", "Dataset", "Facts", "Samples", "Split", "Task", "dataset"]


def dataset(name: str) -> Any:
    """Register a class as a dataset: ``@dataset("multidigits")``."""
    return register("dataset", name)


class Split(Enum):
    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True)
class Arrays:
    """n samples: inputs float32 [n, ...] (or one per task); targets by task (int64 classes, float32 else)."""

    inputs: np.ndarray | Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    index: np.ndarray
    present: Mapping[str, np.ndarray] | None = None  # None: every sample carries every label


class Samples(Protocol):
    """One split, addressable by sample."""

    def __len__(self) -> int: ...

    def fetch(self, index: np.ndarray) -> Arrays:
        """The samples with these positions, in this order."""
        ...


@dataclass(frozen=True)
class ArraySamples:
    """A split that fits in memory."""

    inputs: np.ndarray
    targets: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def fetch(self, index: np.ndarray) -> Arrays:
        present = None if self.present is None else {name: mask[index] for name, mask in self.present.items()}
        targets = {name: values[index] for name, values in self.targets.items()}
        return Arrays(self.inputs[index], targets, index.astype(np.int64), present)


class Dataset(ABC):
    """A frozen dataclass whose fields are its parameters; ``facts`` is cheap, ``split`` may load."""

    name: ClassVar[str] = ""

    @abstractmethod
    def facts(self) -> Facts:
        """Tasks, sizes, input shape and the fingerprint of the data, without loading it."""

    @abstractmethod
    def split(self, split: Split) -> Samples:
        """One of the three disjoint splits; the same for every seed and method."""

    def augment(self, arrays: Arrays, seed: int) -> Arrays:  # noqa: ARG002
        """Training samples as they are shown in one epoch, whose ``seed`` this is. A sample's draw may depend on the
        seed and its index alone, so that it is the same for every number of ranks. Unless overridden: unchanged."""
        return arrays

    def loss(self, task: Task, prediction: Tensor, batch: Batch) -> Tensor:
        """Mean loss of the samples in ``batch`` that carry the task's label; by the task's kind unless overridden."""
        from mtlfleet.datasets.losses import mean_loss

        return mean_loss(task, prediction, batch)
