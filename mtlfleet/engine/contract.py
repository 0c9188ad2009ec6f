"""What data, model and trainer hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch of B samples.

    ``inputs`` is one tensor [B, ...] or one per task (multi-input problems); ``targets[task]`` [B, ...];
    ``present[task]`` bool [B] says which samples carry the task's label; ``index`` int64 [B] is each sample's stable id
    in its split.
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
        inputs = (
            self.inputs.to(device, non_blocking=True) if isinstance(self.inputs, Tensor) else _each(self.inputs, device)
        )
        index = self.index.to(device, non_blocking=True)
        return Batch(inputs, _each(self.targets, device), _each(self.present, device), index)


def _each(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


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
    """``predictions[task]`` [B, outputs], or [B, outputs, H, W] of a dense task; ``features`` by name (``"shared"``
    is the representation all heads read; the trainer adds what a phase taps); ``extras["loss/<task>"]``: a scalar added
    to that task's loss before any weighting; ``extras["loss/*"]``: one whose gradient is added to the weighted update.
    """

    predictions: Mapping[str, Tensor]
    features: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
