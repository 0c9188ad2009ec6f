"""State that lives beside the rows: this rank's columns of K numbers per parameter."""

from __future__ import annotations

import torch
from torch import Tensor


def beside(state: Tensor, rows: Tensor) -> Tensor:
    """A state [K, n] on the rows' device, in their type; zeros before the first step, when it is [K, 0]."""
    return state.to(rows) if state.numel() else torch.zeros_like(rows)
