"""Between tensors and the solvers' arrays; and the ways to say which tasks matter more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtlfleet.engine.gradients import Weights
from mtlfleet.linalg.gram import Array
from mtlfleet.methods.base import OutOfDomain


def as_array(tensor: Tensor) -> Array:
    """A tensor as float64 array on the CPU."""
    array: Array = tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
    return array


def as_weights(array: Array) -> Weights:
    """A solver's answer [K] as weights."""
    return Weights(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)))


def preference(given: str | float | Sequence[float], tasks: int) -> Array:
    """[K] from ``"sum"`` (ones), ``"mean"`` (1/K each), one number for all tasks, or one per task.

    Raises OutOfDomain when the numbers are not one per task.
    """
    if isinstance(given, str):
        return np.full(tasks, 1.0 if given == "sum" else 1.0 / tasks)
    if isinstance(given, (int, float)):
        return np.full(tasks, float(given))
    if len(given) != tasks:
        raise OutOfDomain(
            f"{len(given)} task weights {tuple(given)} for {tasks} task{'s' if tasks != 1 else ''}",
            help="give one weight per task, in the order of the data set's tasks",
        )
    return np.asarray(given, dtype=np.float64)
