"""What is written down about a step: losses, weights, norms, cosines, conflicts, and what the method reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mtlfleet.engine import StepInfo
from mtlfleet.store import AttemptWriter


@dataclass(frozen=True)
class Telemetry:
    """Turns a StepInfo into rows; lists follow the engine's task order (the data set's)."""

    tasks: tuple[str, ...]

    def write(self, writer: AttemptWriter, step: int, info: StepInfo) -> None:
        """``step_metrics`` rows for each task, one per number, and one ``task_gradients`` row."""
        for name, values in {"loss": info.losses, **info.report}.items():
            for task, value in zip(info.tasks, values.tolist(), strict=True):
                writer.step_metric(step, task, name, value)
        cosines = _upper(info.cosines)
        conflicts = sum(c < 0 for c in cosines) / len(cosines) if cosines else math.nan
        writer.task_gradients(
            step,
            scope="shared",
            tasks=list(info.tasks),
            losses=info.losses.tolist(),
            norms=[] if info.norms is None else info.norms.tolist(),
            cos_upper=cosines,
            weights=[] if info.weights is None else info.weights.tolist(),
            conflict_fraction=conflicts,
            update_norm=info.update_norm,
            status=info.status,
        )


def _upper(cosines: torch.Tensor | None) -> list[float]:
    """cos(i, j) for i < j, row after row; empty when the step did not need the Gram."""
    if cosines is None:
        return []
    rows, columns = torch.triu_indices(cosines.shape[0], cosines.shape[1], offset=1)
    found: list[float] = cosines[rows, columns].tolist()
    return found
