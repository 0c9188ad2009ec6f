"""Which tasks? Asked only after the claim on their average is supported, Holm over the tasks."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtlfleet_analysis.decision import Decision, claim_p
from mtlfleet_analysis.multiplicity import holm
from mtlfleet_analysis.questions import Gathered, by_task
from mtlfleet_analysis.sensitivity import dataset_means, main_test

_AVERAGES = ("delta_m", "delta_p", "front_pref")


def follow_ups(gathered: Gathered, decision: Decision, level: float, seed: int) -> list[dict[str, Any]]:
    """The claim's own question for every task of every dataset, at the claim's level; empty while the gate is shut.

    Scope: the datasets that were run. The gate costs no level: a task is looked at only if the average was supported.
    """
    claim = gathered.claim
    shut = decision.answer != "supported" or claim.estimand.kind not in _AVERAGES or claim.splits.kind == "resampled"
    if shut or claim.scope != "these_datasets" or claim.stopping.kind == "anytime":
        return []
    parts = dict(by_task(gathered.evidence, claim))
    if any(not found.pairs for found in parts.values()):
        return []
    p = [claim_p(claim, main_test(claim, found.pairs, seed)) for found in parts.values()]
    return [
        {
            "task": name,
            "effect": float(np.mean(list(dataset_means(found.pairs).values()))),
            "p": own,
            "p_adjusted": float(adjusted),
            "supported": bool(adjusted <= level),
        }
        for (name, found), own, adjusted in zip(parts.items(), p, holm(p), strict=True)
    ]
