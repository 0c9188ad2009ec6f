"""What data, model and trainer hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch of B samples.

    ``inputs`` is one tensor [B, ...] or one per task (multi-input problems); ``targets[task]`` [B, ...]; ``present[task]``
    bool [B] says which samples carry the task's label; ``index`` int64 [B] is each sample's stable id in its split.
    """

    inputs: Tensor | Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    index: Tensor

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        move = {"device": device, "non_blocking": True}
        inputs = self.inputs.to(**move) if isinstance(self.inputs, Tensor) else _each(self.inputs, move)
        return Batch(inputs, _each(self.targets, move), _each(self.present, move), self.index.to(**move))


def _each(tensors: Mapping[str, Tensor], move: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.to(**move) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Context:
    """Where in training a forward pass happens; passed in, never set as an attribute of the model."""

    phase: str = "train"
    epoch: int = 0
    step: int = 0
    total_steps: int = 1
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Output:
    """``predictions[task]`` [B, outputs]; ``features`` by name (``"shared"`` is the representation all heads read)."""

    predictions: Mapping[str, Tensor]
    features: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
