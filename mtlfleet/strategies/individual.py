"""First each task alone, then what they share."""

from __future__ import annotations

from dataclasses import dataclass

from mtlfleet.strategies.base import Phase, Strategy, strategy


@strategy("individual")
@dataclass(frozen=True, kw_only=True)
class Individual(Strategy):
    """Train what is private to each task, freeze it, then train the shared part and the gates.

    Made for ``smtl`` and equal weights: in the phase ``private`` its gates are shut and get gradients of zero, which is
    single-task learning; in the phase
    ``public`` the private encoders and the heads rest, so that a gate that stays shut is still that.

    Source      the individual strategy of Yue et al., Deep Safe Multi-Task Learning, 2022; a reconstruction.

    Parameters
    ----------
    private:  share of the steps that goes to the first phase.
    """

    private: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.private < 1:
            raise ValueError(f"individual: private must be between 0 and 1, found {self.private}")

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        first = round(total_steps * self.private)
        found = (
            Phase(name="private", steps=first, trainable=("task:*", "gate*")),
            Phase(name="public", steps=total_steps - first, trainable=("shared", "gate*", "aux")),
        )
        return tuple(phase for phase in found if phase.steps)
