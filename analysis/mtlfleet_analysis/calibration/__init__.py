"""Calibration: studies with a known truth, judged by the functions that judge real ones, against the goals they owe."""

from __future__ import annotations

from mtlfleet_analysis.calibration.findings import Experiment, Finding
from mtlfleet_analysis.calibration.noise import Noise, fit
from mtlfleet_analysis.calibration.plan import experiments

__all__ = ["Experiment", "Finding", "Noise", "experiments", "fit"]
