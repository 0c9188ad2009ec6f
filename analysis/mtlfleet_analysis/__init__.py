"""Questions and answers: paired tests, verdicts on claims, the report. Needs no GPU, no torch, no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtlfleet_analysis.effects import delta_m, iqm, probability_of_improvement
from mtlfleet_analysis.multiplicity import benjamini_hochberg, holm, shaffer
from mtlfleet_analysis.pareto import hypervolume
from mtlfleet_analysis.ranks import friedman_test, mean_rank, nemenyi_critical_difference, quade_test
from mtlfleet_analysis.signflip import sign_flip_test
from mtlfleet_analysis.significance import bayesian_correlated_t, corrected_t_test, tost, wilcoxon_signed_rank

if TYPE_CHECKING:
    from mtlfleet_analysis.judging import judge
    from mtlfleet_analysis.verdict import Verdict

__all__ = [
    "Verdict",
    "bayesian_correlated_t",
    "benjamini_hochberg",
    "corrected_t_test",
    "delta_m",
    "friedman_test",
    "holm",
    "hypervolume",
    "iqm",
    "judge",
    "mean_rank",
    "nemenyi_critical_difference",
    "probability_of_improvement",
    "quade_test",
    "shaffer",
    "sign_flip_test",
    "tost",
    "wilcoxon_signed_rank",
]

_HOME = {"judge": "mtlfleet_analysis.judging", "Verdict": "mtlfleet_analysis.verdict"}


def __getattr__(name: str) -> Any:
    """Judging reads the plan and the store; the tests alone need neither."""
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mtlfleet_analysis' has no attribute {name!r}")
