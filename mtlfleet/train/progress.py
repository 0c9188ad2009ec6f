"""How far a trial is: what ranks report, and what a checkpoint keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """What a rank reports after a stretch of steps; equal on all ranks."""

    step: int
    total_steps: int
    state: str  # running | done | diverged
    attempt: int
    score: float = math.nan

    @property
    def finished(self) -> bool:
        return self.state != "running"


@dataclass
class Position:
    """Where a trial stands; all of it is in a checkpoint."""

    step: int = 0
    best_step: int = 0
    best_score: float = -math.inf
    skips: int = 0  # in a row
    samples: int = 0  # drawn so far, again and again
    unimproved: int = 0  # evaluations in a row that found no better checkpoint
    loss_sum: list[float] = field(default_factory=list)
    loss_count: int = 0
