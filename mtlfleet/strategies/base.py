"""A strategy cuts a trial's steps into phases and says which parameters train in each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

from mtlfleet.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlfleet.engine.contract import Batch, Context, Output
    from mtlfleet.plan.tasks import Task

__all__ = ["Phase", "Strategy", "strategy"]


def strategy(name: str) -> Any:
    """Register a class as a strategy: ``@strategy("joint")``."""
    return register("strategy", name)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A run of steps under one regime.

    Parameters
    ----------
    name:       what ``Context.phase`` says meanwhile.
    steps:      how many optimizer steps, at least 1.
    trainable:  patterns of parameter roles (``shared``, ``task:*``, ``gate``, ``aux``); a parameter that none matches
                is frozen in this phase.
    optimizers: role pattern -> what differs there from the study's recipe (``optimizer``, ``lr``, ``weight_decay``,
                ``momentum``, ``schedule``, ``warmup_steps``); the first pattern that matches counts. Moments start anew
                in a phase whose optimizers are others than those of the phase before.
    extra:      further losses, as ``Output.extras`` names them, from (model, batch, output, context): means over the
                batch, ``loss/<task>`` before weighting or ``loss/*`` after it; the same names for every batch.
    taps:       names of submodules whose results, with their graph, ``extra`` finds in ``output.features``, as
                ``tap/<name>``.
    """

    name: str
    steps: int
    trainable: tuple[str, ...] = ("*",)
    optimizers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: Callable[[nn.Module, Batch, Output, Context], Mapping[str, Tensor]] | None = None
    taps: tuple[str, ...] = ()

    def trains(self, role: str) -> bool:
        """Whether parameters of this role move.

        >>> Phase(name="heads", steps=10, trainable=("task:*",)).trains("shared")
        False
        """
        return any(fnmatchcase(role, pattern) for pattern in self.trainable)

    def frozen(self, roles: Mapping[str, str]) -> frozenset[str]:
        """Of parameter name -> role, the names that do not move."""
        return frozenset(name for name, role in roles.items() if not self.trains(role))


class Strategy(ABC):
    """A frozen dataclass whose fields are the study's ``params``."""

    name: ClassVar[str] = ""

    @abstractmethod
    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """The phases in order; their steps sum to ``total_steps``, whatever that is (1 or more)."""

    def wrap(self, model: nn.Module, tasks: Sequence[Task]) -> nn.Module:  # noqa: ARG002
        """The model with what training needs beside it, drawn from torch's seeded generator: parameters of the role
        ``aux``, unless ``model.roles()`` says otherwise. By default the model as it is."""
        return model
