"""From a study file to trials: read, check, complete, expand. Imports neither torch nor ray."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtlfleet.plan.claims import Baseline, Claim, Estimand
    from mtlfleet.plan.study import Cell, Resources, Study, check
    from mtlfleet.plan.tasks import METRICS, Facts, Metric, Task
    from mtlfleet.plan.trial import Recipe, Spec, Trial

# On demand: commands that only read results must not pay for the reader of study files.
_HOME = {
    "METRICS": "tasks",
    "Baseline": "claims",
    "Cell": "study",
    "Claim": "claims",
    "Estimand": "claims",
    "Facts": "tasks",
    "Metric": "tasks",
    "Recipe": "trial",
    "Resources": "study",
    "Spec": "trial",
    "Study": "study",
    "Task": "tasks",
    "Trial": "trial",
    "check": "study",
}
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


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"mtlfleet.plan.{_HOME[name]}"), name)
    raise AttributeError(f"module 'mtlfleet.plan' has no attribute {name!r}")
