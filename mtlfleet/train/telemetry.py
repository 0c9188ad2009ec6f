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
        """``step_metrics`` rows for each task, one per number; where the step has the Gram, one for ``*`` of each
        number of its ``geometry``; and one ``task_gradients`` row."""
        for name, number in geometry(info).items():
            writer.step_metric(step, "*", name, number)
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


def geometry(info: StepInfo) -> dict[str, float]:
    """What the Gram G of a step tells of its update d, beside that of a plain sum; empty without one.

    ``min_product``: the smallest product of a task gradient with d, negative where a task is hurt (to first order);
    ``norm_to_sum``: the norm of d over that of the plain sum of the task gradients; ``gram_condition``: G's largest
    eigenvalue over its smallest, which counts as K times float64's rounding of the largest at least. The first two need
    weights: an update made coordinate by coordinate has other products than G tells.
    """
    if info.gram is None:
        return {}
    found = {}
    values = torch.linalg.eigvalsh(info.gram)
    top = float(values[-1])
    if top > 0:
        smallest = max(float(values[0]), len(values) * torch.finfo(torch.float64).eps * top)
        found["gram_condition"] = top / smallest
    if info.weights is not None:
        products = info.gram @ info.weights
        length = math.sqrt(max(0.0, float(info.weights @ products)))
        cut = info.update_norm / length if length > 0 and math.isfinite(info.update_norm) else 1.0
        found["min_product"] = cut * float(products.min())
        total = math.sqrt(max(0.0, float(info.gram.sum())))
        if total > 0:
            found["norm_to_sum"] = cut * length / total
    return found


def _upper(cosines: torch.Tensor | None) -> list[float]:
    """cos(i, j) for i < j, row after row; empty when the step did not need the Gram."""
    if cosines is None:
        return []
    rows, columns = torch.triu_indices(cosines.shape[0], cosines.shape[1], offset=1)
    found: list[float] = cosines[rows, columns].tolist()
    return found
