"""All tasks, all parameters, from the first step to the last."""

from __future__ import annotations

from dataclasses import dataclass

from mtlfleet.strategies.base import Phase, Strategy, strategy


@strategy("joint")
@dataclass(frozen=True, kw_only=True)
class Joint(Strategy):
    """Train every task's loss together in one phase; what the optimizers under study are defined for."""

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        return (Phase(name="train", steps=total_steps),)
