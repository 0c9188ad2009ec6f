"""A claim's card."""

from __future__ import annotations

import math
from typing import Any

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.report import claim_figures, queries
from mtlfleet_analysis.report.drawing import figure
from mtlfleet_analysis.report.palette import badge
from mtlfleet_analysis.sentences import correction, declared, number, p_text, short_unit, signed
from mtlfleet_analysis.verdict import Verdict


def card(evidence: Evidence, verdict: Verdict, index: int) -> dict[str, Any]:
    """One claim as the page shows it: chip, sentence, numbers, and the evidence folded away."""
    glyph, look = badge(verdict.verdict, verdict.label)
    unit = short_unit(verdict.unit)
    has_interval = verdict.ci_low is not None and math.isfinite(verdict.ci_low)
    measured = verdict.effect is not None
    pairs = None
    if measured:
        pairs = figure(
            claim_figures.paired_differences(verdict),
            f"pairs{index}",
            f"Paired differences of claim {verdict.claim_id}",
            "Each dot is one seed: method minus baseline. The band is the margin.",
        )
    return {
        "id": verdict.claim_id,
        "anchor": f"claim-{index + 1}",
        "glyph": glyph,
        "look": look,
        "verdict": verdict.title,
        "fragile": verdict.fragile,
        "question": verdict.claim.question
        or f"{evidence.label(verdict.claim.method)} against {' / '.join(verdict.claim.baseline.best_of)}",
        "sentence": verdict.sentence,
        "guards": [g.partition(": ") for g in verdict.guards],
        "measured": measured,
        "effect": signed(verdict.effect),
        "unit": unit,
        "ci": f"[{number(verdict.ci_low)}, {number(verdict.ci_high)}]" if has_interval else "one seed per dataset",
        "p": p_text(verdict.p_value).removeprefix("p ").removeprefix("= "),
        "p_adjusted": p_text(verdict.p_adjusted).removeprefix("p ").removeprefix("= "),
        "adjustment": correction(verdict),
        "power": "n/a" if verdict.power is None else f"{verdict.power:.2f}",
        "facts": facts(verdict),
        "choices": _choices(verdict),
        "pairs": pairs,
        "runs": _runs(evidence, verdict),
        "sql": queries.of_claim(evidence.study, verdict.claim),
    }


def facts(verdict: Verdict) -> list[tuple[str, str]]:
    """Design and circumstances, as (name, value) rows."""
    claim, detail = verdict.claim, verdict.detail
    budget, failures = detail["budget"], detail["failures"]
    asked = f"{claim.alternative.replace('_', ' ')}, margin {declared(claim.margin)}"
    tuned = ", ".join(f"{m} {n}" for m, n in budget["tuning_trials"].items())
    rows = [
        (
            "claim",
            f"{asked}, α {declared(claim.alpha)}, family {claim.family} of {detail['family_size']}",
        ),
        ("scope", "these datasets" if claim.scope == "these_datasets" else "datasets like these"),
        *([("families", _families(claim))] if claim.dataset_families else []),
        ("registration", detail["standing"]["note"]),
        *([("taken from", detail["literature"])] if detail.get("literature") else []),
        *([("look", _look(detail["look"]))] if detail["look"]["kind"] != "fixed" else []),
        ("pairs", ", ".join(f"{d} {n}" for d, n in detail["pairs_per_dataset"].items()) or "none"),
        ("seed correlation ρ", number(detail["rho"], 2)),
        (
            "failures left out" if claim.failures == "exclude" else "failures scored worst",
            f"{failures['method']} method, {failures['baseline']} baseline",
        ),
        *([("failures left out because", claim.failures_reason)] if claim.failures == "exclude" else []),
        ("tuning runs", f"{tuned} (ratio {number(budget['tuning_ratio'], 2)})"),
        ("device time ratio", number(budget["device_ratio"], 2)),
    ]
    if "limits" in detail:
        low, high = detail["limits"]
        rows.append((f"one-sided limits at {number(detail['level'], 2)}", f"{number(low)} … {number(high)}"))
    if verdict.seeds_needed is not None:
        rows.append(("seeds for power 0.8", f"{verdict.seeds_needed} (now {detail['seeds']})"))
    if claim.parity == "waived":
        rows.append(("parity waived", claim.parity_reason or "no reason given"))
    return [*rows, ("hash", verdict.sha256[:16])]


def _families(claim: Claim) -> str:
    """Which datasets are variants of one, and counted once."""
    found: dict[str, list[str]] = {}
    for dataset, family in claim.dataset_families:
        found.setdefault(family, []).append(dataset)
    return "; ".join(f"{family}: {', '.join(members)}" for family, members in found.items())


def _look(look: dict[str, Any]) -> str:
    """Which look decided, and what it left aside."""
    unused = f"; {look['unused_seeds']} later seeds not used" if look["unused_seeds"] else ""
    scheduled = f"{look['number']} of {look['of']}" if look["kind"] == "group_sequential" else "at any time"
    return f"{scheduled}, {look['seeds']} seeds{unused}"


def _choices(verdict: Verdict) -> list[dict[str, str]]:
    return [
        {
            "place": f"{c['dataset']} · {c['architecture']}",
            "baseline": c["baseline"] or "not chosen",
            "scores": ", ".join(f"{m} {signed(s)}" for m, s in c["scores"].items()),
        }
        for c in verdict.detail["choices"]
        if c["scores"]
    ]


def _runs(evidence: Evidence, verdict: Verdict) -> list[dict[str, str]]:
    """Each pair with the trials its two numbers came from; a single-task method has one a task."""
    trials: dict[tuple[str, str, str, int], list[str]] = {}
    for run in evidence.phase("final"):
        trials.setdefault((run.method, run.dataset, run.architecture, run.seed), []).append(run.trial)
    chosen = {(c["dataset"], c["architecture"]): c["baseline"] for c in verdict.detail["choices"]}
    rows = []
    for dataset, architecture, seed, mine, theirs, *_ in verdict.detail["pairs"]:
        baseline = chosen.get((dataset, architecture)) or verdict.claim.baseline.best_of[0]
        arms = [
            " ".join(t[:12] for t in trials.get((m, dataset, architecture, seed), []))
            for m in (verdict.claim.method, baseline)
        ]
        rows.append(
            {
                "place": f"{dataset} · {architecture}",
                "seed": str(seed),
                "method": signed(mine),
                "baseline": signed(theirs),
                "trials": " | ".join(arms),
            }
        )
    return rows
