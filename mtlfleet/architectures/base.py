"""An architecture turns tasks and an input shape into a model; a backbone turns an input shape into features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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

    def roles(self) -> Mapping[str, str]:
        """Parameter name -> ``shared``, ``task:<t>`` (only that task's loss reaches it), ``gate`` or ``aux``.

        They choose what a phase trains and the optimizer's groups; what is shared, the engine finds by reachability.
        """
        ...


class Architecture(ABC):
    """A frozen dataclass whose fields are the study's ``params``.

    ``build`` draws weights from torch's global generator, which the trainer has seeded for the purpose ``init``.
    """

    name: ClassVar[str] = ""

    @abstractmethod
    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        """A ``Model`` with one prediction per task in ``tasks``. Raises ValueError when the inputs do not suit it."""


class Backbone(ABC):
    """A frozen dataclass whose fields are the backbone's ``params``."""

    name: ClassVar[str] = ""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """(module from [B, *input_shape] to [B, width], width)."""
