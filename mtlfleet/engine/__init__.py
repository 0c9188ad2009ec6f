"""Per-task gradients for plain torch modules: found, averaged over ranks, balanced, written."""

from __future__ import annotations

from mtlfleet.engine.engine import GradientEngine
from mtlfleet.engine.gradients import Gram, Losses, Needs, Rows, TaskGradients, Weights
from mtlfleet.engine.info import StepInfo
from mtlfleet.engine.modules import average_buffers, kept_buffers, refuse_wrappers
from mtlfleet.engine.sharded import ShardedOptimizer
from mtlfleet.engine.skips import Diverged

__all__ = [
    "Diverged",
    "GradientEngine",
    "Gram",
    "Losses",
    "Needs",
    "Rows",
    "ShardedOptimizer",
    "StepInfo",
    "TaskGradients",
    "Weights",
    "average_buffers",
    "kept_buffers",
    "refuse_wrappers",
]
