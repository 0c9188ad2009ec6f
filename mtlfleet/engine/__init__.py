"""Per-task gradients for plain torch modules: found, averaged over ranks, balanced, written."""

from __future__ import annotations

from mtlfleet.engine.engine import GradientEngine, refuse_wrappers
from mtlfleet.engine.gradients import Gram, Losses, Needs, Rows, TaskGradients, Weights
from mtlfleet.engine.info import StepInfo

__all__ = ["GradientEngine", "Gram", "Losses", "Needs", "Rows", "StepInfo", "TaskGradients", "Weights", "refuse_wrappers"]
