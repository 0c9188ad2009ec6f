"""Which part of the evidence may be looked at: all of it, the seeds up to a scheduled look, or every complete seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.pairing import places, seeds_of
from mtlfleet_analysis.scoring import outcomes


@dataclass(frozen=True)
class Look:
    """The evidence of one look: ``seeds`` per dataset, and the share of alpha it spends."""

    number: int
    seeds: int
    share: float
    evidence: Evidence


def looks(evidence: Evidence, claim: Claim) -> tuple[Look, ...]:
    """The looks reached so far; where none is, the first one as it stands, for the guards to say what it lacks."""
    seeds = seeds_of(evidence, claim)
    stopping = claim.stopping
    if stopping.kind == "fixed" or not seeds:
        return (Look(1, len(seeds), 1.0, evidence),)
    complete = _complete(evidence, claim, seeds)
    if stopping.kind == "anytime":
        count = max(1, complete)
        return (Look(count, count, 1.0, _until(evidence, seeds[:count])),)
    planned = list(zip(stopping.looks, stopping.alpha, strict=True))
    reached = [(n, alpha) for n, alpha in planned if n <= complete] or planned[:1]
    return tuple(
        Look(i + 1, n, alpha / claim.alpha, _until(evidence, seeds[:n])) for i, (n, alpha) in enumerate(reached)
    )


def _complete(evidence: Evidence, claim: Claim, seeds: tuple[int, ...]) -> int:
    """How many of the first seeds have all their outcomes, in every arm, the single-task one included."""
    joined = outcomes(evidence.phase("final"), "test")
    names = {claim.method, *claim.baseline.best_of}
    if claim.estimand.relative and evidence.reference is not None:
        names.add(evidence.reference)
    for i, seed in enumerate(seeds):
        for dataset, architecture in places(evidence, claim):
            for name in names:
                outcome = joined.get((name, dataset, architecture, seed))
                if outcome is None or not outcome.complete:
                    return i
    return len(seeds)


def _until(evidence: Evidence, seeds: tuple[int, ...]) -> Evidence:
    """The evidence as it stood when only these seeds had been run."""
    kept = set(seeds)
    runs = tuple(r for r in evidence.runs if r.phase != "final" or r.seed in kept)
    return replace(evidence, seeds=seeds, runs=runs)
