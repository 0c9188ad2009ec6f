"""A strategy for tests: one loss joins a task's before the weighting, one is added after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mtlfleet.architectures.base import Batch, Context, Output
from mtlfleet.plan.tasks import Task
from mtlfleet.strategies.base import Phase, Strategy, strategy


@strategy("extra_losses")
@dataclass(frozen=True, kw_only=True)
class ExtraLosses(Strategy):
    """Both are means over samples of what an adapter makes of the representation."""

    before: float = 1.0
    after: float = 1.0

    def wrap(self, model: nn.Module, tasks: Sequence[Task]) -> nn.Module:
        model.adapter = nn.Linear(8, 2)
        return model

    def extra(self, model: nn.Module, batch: Batch, output: Output, ctx: Context) -> Mapping[str, Tensor]:
        first, second = model.adapter(output.features["shared"]).square().mean(0)  # type: ignore[operator]
        return {"loss/task_0": self.before * first, "loss/*": self.after * second}

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        return (Phase(name="train", steps=total_steps, extra=self.extra),)
