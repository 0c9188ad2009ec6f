"""What rank 0 writes down of a trial while it trains; on the other ranks nothing happens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from mtlfleet.datasets.base import Split
from mtlfleet.engine import StepInfo
from mtlfleet.engine.watching import Watch
from mtlfleet.store import keep_artifact
from mtlfleet.train.checkpoint import plain
from mtlfleet.train.evaluate import Measured
from mtlfleet.train.runcard import run_card
from mtlfleet.train.telemetry import Telemetry

if TYPE_CHECKING:
    from mtlfleet.train.run import TrialRun


class Records:
    """Rows of one attempt, at the position the trial is at."""

    def __init__(self, run: TrialRun) -> None:
        self._run = run
        self._telemetry = Telemetry(run.feed.tasks)
        self._carded = False

    def watch(self, step: int, turn: int = 0) -> Watch | None:
        """Whether a step is written down, and how far the engine goes for it; the same on every rank."""
        recipe = self._run.recipe
        if turn:  # the row is of the first
            return None
        if recipe.geometry_every is not None and step % recipe.geometry_every == 0:
            return "passes"
        return "held" if step % recipe.log_every == 0 else None

    def step(self, info: StepInfo) -> None:
        """Once an attempt its conventions; what the step was like if it is one that is written down."""
        run, step = self._run, self._run.position.step
        if run.writer is None:
            return
        if not self._carded:
            self._carded = True
            run.writer.event(step, "info", "run_card", json.dumps(run_card(run, info), sort_keys=True))
        if self.watch(step) is not None:
            self._telemetry.write(run.writer, step, info)

    def skipped(self, reason: str) -> None:
        """A step that had a non-finite number."""
        if self._run.writer is not None:
            self._run.writer.event(self._run.position.step, "warning", "skipped_step", reason)

    def measured(self, split: Split, found: Iterable[Measured], final: bool = False) -> None:
        """Metrics of a split."""
        for m in found:
            self._metric(split, m.task, m.metric, m.value, m.n, final)

    def losses(self) -> None:
        """Mean training losses since the last evaluation, and the samples drawn since the start."""
        position = self._run.position
        for k, task in enumerate(self._run.feed.tasks):
            mean = position.loss_sum[k] / position.loss_count if position.loss_count else math.nan
            self._metric(Split.TRAIN, task, "loss", mean, position.loss_count)
        self._metric(Split.TRAIN, "*", "samples", position.samples, position.samples)

    def weights(self) -> None:
        """The model as it is, where the study keeps those of final trials."""
        run = self._run
        if run.writer is None or not run.site.keep_weights or run.trial.phase != "final":
            return
        place = (run.site.root, run.site.study, run.trial.id, run.attempt)
        kept = keep_artifact(
            *place, "model.safetensors", lambda path: save_file(plain(run.parts.model.state_dict()), path)
        )
        run.writer.artifact(run.position.step, "weights", *kept)

    def ended(self, selected_step: int) -> None:
        """The checkpoint that was chosen, and the samples drawn until the end."""
        samples = self._run.position.samples
        self._metric(Split.VAL, "*", "selected_step", selected_step, 1, final=True)
        self._metric(Split.TRAIN, "*", "samples", samples, samples, final=True)

    def _metric(self, split: Split, task: str, metric: str, value: float, n: int, final: bool = False) -> None:
        run, step = self._run, self._run.position.step
        if run.writer is not None:
            run.writer.metric(step, run.epoch(step - 1), split.value, task, metric, value, n=n, final=final)
