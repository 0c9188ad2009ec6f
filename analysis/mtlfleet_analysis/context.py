"""What stands beside every verdict, invalid ones too: design, budget, failures, choices and the pairs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mtlfleet.plan.claims import PROTOCOL_VERSION, Claim
from mtlfleet_analysis.budget import budgets, ratio
from mtlfleet_analysis.estimands import stated
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.guards import CHECKED
from mtlfleet_analysis.pairing import Pair, Pairing, places
from mtlfleet_analysis.registering import Standing
from mtlfleet_analysis.sensitivity import dataset_means


def context(evidence: Evidence, claim: Claim, pairing: Pairing, standing: Standing) -> dict[str, Any]:
    """The ``detail`` of a verdict, as JSON values."""
    pairs = pairing.pairs
    return {
        "protocol": PROTOCOL_VERSION,
        "registration": claim.registration(evidence.sha256),
        "standing": {"status": standing.status, "number": standing.number, "note": standing.note},
        "amended": [asdict(a) for a in standing.amended],
        "guards_checked": list(CHECKED),
        **_asked(evidence, claim),
        "pairs_per_dataset": {d: sum(p.dataset == d for p in pairs) for d in sorted({p.dataset for p in pairs})},
        "dataset_families": len({claim.family_of(p.dataset) for p in pairs}),
        "seeds": len({p.seed for p in pairs}),
        "effects": dataset_means(pairs) if pairs else {},
        "rho": _rho(pairs),
        "failures": {
            "method": sum(p.method_imputed for p in (*pairs, *pairing.excluded)),
            "baseline": sum(p.baseline_imputed for p in (*pairs, *pairing.excluded)),
        },
        "excluded": {"pairs": len(pairing.excluded), "reason": claim.failures_reason},
        "tags": ["failures excluded"] if claim.failures == "exclude" else [],
        "budget": _budget(evidence, claim),
        "choices": [
            {"dataset": c.dataset, "architecture": c.architecture, "baseline": c.baseline, "scores": dict(c.scores)}
            for c in pairing.choices
        ],
        "pairs": [
            [p.dataset, p.architecture, p.seed, p.method, p.baseline, p.method_imputed, p.baseline_imputed]
            for p in pairs
        ],
    }


def _asked(evidence: Evidence, claim: Claim) -> dict[str, Any]:
    """The claim itself, its estimand with unit, sign and convention."""
    return {
        "question": claim.question,
        "literature": claim.use,
        "method": claim.method,
        "baseline": list(claim.baseline.best_of),
        "alternative": claim.alternative,
        "margin": claim.margin,
        "alpha": claim.alpha,
        "scope": claim.scope,
        "family": claim.family,
        "correction": claim.correction,
        "stopping": asdict(claim.stopping),
        "parity": {"status": claim.parity, "reason": claim.parity_reason},
        "estimand": stated(claim.estimand, evidence.metrics),
    }


def _budget(evidence: Evidence, claim: Claim) -> dict[str, Any]:
    """What both sides were given."""
    mine, *theirs = budgets(evidence, claim, places(evidence, claim))
    most = max(theirs, key=lambda b: b.tuning_trials)
    seconds = [b.tuning_device_s + b.final_device_s for b in (mine, most)]
    return {
        "tuning_trials": {b.method: b.tuning_trials for b in (mine, *theirs)},
        "tuning_ratio": ratio(mine.tuning_trials, most.tuning_trials),
        "device_s": {b.method: b.tuning_device_s + b.final_device_s for b in (mine, *theirs)},
        "device_ratio": ratio(seconds[0], seconds[1]),
    }


def _rho(pairs: Sequence[Pair]) -> float | None:
    """Correlation of method and baseline over seeds within strata: how much pairing by seed helps."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for p in pairs:
        groups.setdefault(p.stratum, []).append(p)
    products = [0.0, 0.0, 0.0]
    for members in groups.values():
        a = np.array([p.method for p in members])
        b = np.array([p.baseline for p in members])
        a, b = a - a.mean(), b - b.mean()
        for i, value in enumerate((a @ b, a @ a, b @ b)):
            products[i] += float(value)
    scale = float(np.sqrt(products[1] * products[2]))
    return products[0] / scale if scale > 0 else None
