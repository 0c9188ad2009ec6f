"""An architecture turns tasks and an input shape into a model; a backbone turns inputs into features, in stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from mtlfleet.engine.contract import Batch, Context, Output
from mtlfleet.plan.tasks import Task
from mtlfleet.registry import register

__all__ = [
    "Architecture",
    "Backbone",
    "Batch",
    "Context",
    "Model",
    "Output",
    "Shape",
    "Stage",
    "architecture",
    "backbone",
]

Shape = tuple[int, ...]  # of one sample: (width,) for a vector, (channels, height, width) for a map


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
        """Parameter name -> ``shared``, ``task:<t>`` (only that task's loss reaches it), ``gate`` (several tasks reach
        it), ``gate:<t>`` (only that task does) or ``aux``.

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


class Stage(nn.Module):
    """A part of a trunk: ``first``, then ``rest``, then ``down`` (pooling, upsampling, dropout: no weights).

    Architectures that join tasks inside a trunk do it between stages; attention looks at what ``first`` and ``rest``
    give, which have the shapes ``early`` and ``late`` and the same height and width. ``shape`` is the stage's output.
    """

    def __init__(
        self, first: nn.Module, shape: Shape, *, rest: nn.Module | None = None, down: nn.Module | None = None,
        early: Shape | None = None, late: Shape | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.first = first
        self.rest = rest or nn.Identity()
        self.down = down or nn.Identity()
        self.shape = shape
        self.late = late or shape
        self.early = early or self.late

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(self.rest(self.first(x)))
        return found


class Backbone(ABC):
    """A frozen dataclass whose fields are the backbone's ``params``; all have ``width``, ``depth`` and ``dropout``."""

    name: ClassVar[str] = ""

    @abstractmethod
    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        """One stage or more, to be run one after the other on [B, *input_shape]. Raises ValueError for inputs that do
        not suit the backbone."""

    def build(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, Shape]:
        """(module from [B, *input_shape] to [B, *shape], shape)."""
        stages = self.stages(input_shape)
        return nn.Sequential(*stages), stages[-1].shape
