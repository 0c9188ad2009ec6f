"""What is written down about a step: losses, weights, norms, cosines, conflicts, what the update does to each task, and
what the method reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mtlfleet.engine import StepInfo
from mtlfleet.store import AttemptWriter


@dataclass(frozen=True)
class Geometry:
    """What the Gram G of a step tells of its update d, beside that of a plain sum.

    ``descents`` [K]: the products of the task gradients with d, negative where a task is hurt (to first order): as the
    engine has taken them, else G a where d = J^T a; None without either. ``norm_to_sum``: the norm
    of d over that of the plain sum of the task gradients, None where that is zero. ``condition``: G's largest
    eigenvalue over its smallest, which counts as K times float64's rounding of the largest at least; None where G is
    zero.
    """

    descents: list[float] | None = None
    norm_to_sum: float | None = None
    condition: float | None = None


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
        found = geometry(info)
        writer.task_gradients(
            step,
            scope="shared",
            tasks=list(info.tasks),
            losses=info.losses.tolist(),
            norms=[] if info.norms is None else info.norms.tolist(),
            cos_upper=cosines,
            weights=[] if info.weights is None else info.weights.tolist(),
            conflict_fraction=sum(c < 0 for c in cosines) / len(cosines) if cosines else None,
            update_norm=info.update_norm,
            status=info.status,
            descents=found.descents,
            norm_to_sum=found.norm_to_sum,
            gram_condition=found.condition,
        )


def geometry(info: StepInfo) -> Geometry:
    """Of a step; empty without a Gram."""
    if info.gram is None:
        return Geometry()
    values = torch.linalg.eigvalsh(info.gram)
    top = float(values[-1])
    condition = top / max(float(values[0]), len(values) * torch.finfo(torch.float64).eps * top) if top > 0 else None
    total = math.sqrt(max(0.0, float(info.gram.sum())))
    if info.descents is not None:
        known = total > 0 and math.isfinite(info.update_norm)
        return Geometry(info.descents.tolist(), info.update_norm / total if known else None, condition)
    if info.weights is None:
        return Geometry(condition=condition)
    products = info.gram @ info.weights
    length = math.sqrt(max(0.0, float(info.weights @ products)))
    cut = info.update_norm / length if length > 0 and math.isfinite(info.update_norm) else 1.0
    return Geometry((cut * products).tolist(), cut * length / total if total > 0 else None, condition)


def _upper(cosines: torch.Tensor | None) -> list[float]:
    """cos(i, j) for i < j, row after row; empty when the step did not need the Gram."""
    if cosines is None:
        return []
    rows, columns = torch.triu_indices(cosines.shape[0], cosines.shape[1], offset=1)
    found: list[float] = cosines[rows, columns].tolist()
    return found
