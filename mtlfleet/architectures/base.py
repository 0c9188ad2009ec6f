"""An architecture turns tasks and an input shape into a model; a backbone turns an input shape into features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import nn

from mtlfleet.engine.contract import Batch, Context, Output
from mtlfleet.plan.tasks import Task
from mtlfleet.registry import register

__all__ = ["Architecture", "Backbone", "Batch", "Context", "Model", "Output", "architecture", "backbone"]


def architecture(name: str) -> Any:
    """Register a class as an architecture: ``@architecture("hps")``."""
    return register("architecture", name)


def backbone(name: str) -> Any:
    """Register a class as a backbone: ``@backbone("mlp")``."""
    return register("backbone", name)


class Model(Protocol):
    """What the trainer calls: an ``nn.Module`` with this forward."""

    def __call__(self, batch: Batch, ctx: Context) -> Output: ...


class Architecture(ABC):
    """A frozen dataclass whose fields are the study's ``params``.

    ``build`` draws weights from torch's global generator, which the trainer has seeded for the purpose ``init``.
    """

    name: ClassVar[str] = ""

    @abstractmethod
    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        """A module with ``forward(batch, ctx) -> Output``; one prediction per task in ``tasks``."""


class Backbone(ABC):
    """A frozen dataclass whose fields are the backbone's ``params``."""

    name: ClassVar[str] = ""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """(module from [B, *input_shape] to [B, width], width)."""
