"""In what order each task meets the others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mtlfleet.methods.base import Step


def random_orders(tasks: int, at: Step, purpose: str) -> NDArray[np.int64]:
    """[K, K - 1]: for each task the others, in an order of its own, keyed by (seed, purpose, step)."""
    keys = torch.rand(tasks, tasks, generator=at.generator(purpose), dtype=torch.float64).numpy()
    return np.argsort(np.where(np.eye(tasks, dtype=bool), np.inf, keys), axis=1)[:, : tasks - 1]
