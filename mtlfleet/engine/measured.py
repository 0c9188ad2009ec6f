"""Exact ways against each other, on the clock: each takes some of the first steps, then the fastest is kept.

All of them give the same gradient but for rounding, so no step is lost; which one wins depends on the machine and its
load, so runs are repeatable to rounding only. Ranks add up their seconds and choose alike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mtlfleet.engine.collect import Plan
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.factored import Factors

ROUNDS = 4  # steps of each way in a row; the first one allocates and is not counted


@dataclass
class Way:
    """One exact way: a plan, and the layers whose gradients are not taken if there are any."""

    plan: Plan
    factors: Factors | None = None
    seconds: list[float] = field(default_factory=list)


class Contest:
    """Whose turn it is; after ``ROUNDS`` steps of each way the one with the fastest step, the same on every rank."""

    def __init__(self, ways: Sequence[Way], exchange: Exchange) -> None:
        self._ways = list(ways)
        self._exchange = exchange
        self._device = ways[0].plan.layout.parameters[0].device
        self._began = 0.0
        self.over = len(self._ways) == 1
        self.now = self._ways[0]

    def begin(self) -> None:
        """A step begins."""
        if not self.over:
            self._began = self._clock()

    def end(self) -> None:
        """A step has been taken, on every rank; a message is sent when it was the last one to be looked at."""
        if self.over:
            return
        self.now.seconds.append(self._clock() - self._began)
        taken = sum(len(way.seconds) for way in self._ways)
        self.over = taken == ROUNDS * len(self._ways)
        if self.over:
            best = torch.tensor([min(way.seconds[1:]) for way in self._ways], dtype=torch.float64)
            self.now = self._ways[int(self._exchange.total(best).argmin())]
            self._ways = [self.now]  # the others' memory goes
        else:
            self.now = self._ways[taken // ROUNDS]

    def _clock(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def __str__(self) -> str:
        return "measured fastest" if self.over else "being measured"
