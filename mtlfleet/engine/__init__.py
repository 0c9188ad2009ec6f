"""Per-task gradients for plain torch modules: found, averaged over ranks, balanced, written."""

from __future__ import annotations

from mtlfleet.engine.engine import GradientEngine
from mtlfleet.engine.gradients import Gram, Losses, Needs, Rows, TaskGradients, Weights
from mtlfleet.engine.info import StepInfo
from mtlfleet.engine.modules import average_buffers, kept_buffers, refuse_wrappers

__all__ = [
    "GradientEngine",
    "Gram",
    "Losses",
    "Needs",
    "Rows",
    "StepInfo",
    "TaskGradients",
    "Weights",
    "average_buffers",
    "kept_buffers",
    "refuse_wrappers",
]
