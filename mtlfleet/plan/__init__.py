"""From a study file to trials: read, check, complete, expand. Imports neither torch nor ray."""

from __future__ import annotations

from mtlfleet.plan.claims import Baseline, Claim, Estimand
from mtlfleet.plan.study import Cell, Resources, Study, check
from mtlfleet.plan.tasks import METRICS, Facts, Metric, Task
from mtlfleet.plan.trial import Recipe, Spec, Trial

__all__ = [
    "METRICS",
    "Baseline",
    "Cell",
    "Claim",
    "Estimand",
    "Facts",
    "Metric",
    "Recipe",
    "Resources",
    "Spec",
    "Study",
    "Task",
    "Trial",
    "check",
]
