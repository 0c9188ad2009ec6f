"""A strategy cuts a trial's steps into phases and says which parameters train in each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from mtlfleet.registry import register

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
    """

    name: str
    steps: int
    trainable: tuple[str, ...] = ("*",)

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
