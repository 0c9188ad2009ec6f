"""What an engine does with micro-batches, step after step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mtlfleet.engine.microbatches import Held
from mtlfleet.engine.scalarised import FirstGradients, FurtherGradients, Scalarised
from mtlfleet.engine.views import StepGradients

ACCUMULATIONS = ("reduce", "local", "first")
Decide = Callable[[Any], tuple[Any, str, str | None]]  # a view -> next state, the solver's word, how it approximates


class MicroBatches:
    """Those before the step; nothing of them outlives it, whether it is taken, skipped or fails."""

    def __init__(self, way: str) -> None:
        if way not in ACCUMULATIONS:
            raise ValueError(f"accumulation is one of {', '.join(ACCUMULATIONS)}; found {way!r}")
        self.way = way
        self.sent_before = 0  # bytes, when the first one came
        self.held: Held | None = None
        self._kept: Scalarised | None = None

    @property
    def open(self) -> bool:
        """Whether there are any."""
        return self.held is not None or self._kept is not None

    def kind(self, last: bool) -> type[StepGradients]:
        """How the next one is looked at."""
        if self._kept is not None:
            return FurtherGradients
        return FirstGradients if self.way == "first" and not last else StepGradients

    def take(self, view: StepGradients, decide: Decide, sent_before: int) -> None:
        """One that is not the last."""
        if not self.open:
            self.sent_before = sent_before
        try:
            if isinstance(view, FirstGradients):
                self._kept = view.decide(decide)
            elif isinstance(view, FurtherGradients) and self._kept is not None:
                view.add(self._kept)
            else:
                self.held = view.hold(local=self.way == "local")
        except BaseException:
            self.clear()
            raise

    def conclude(self, view: Any, decide: Decide) -> tuple[Any, str, str | None]:
        """The last one: what was decided, now or at the first. Raises NonFinite."""
        if self._kept is None:
            return decide(view)
        state, status, label = view.conclude(self._kept)
        return state, status, label or "first"

    def clear(self) -> None:
        """Forget them."""
        self.held = self._kept = None
