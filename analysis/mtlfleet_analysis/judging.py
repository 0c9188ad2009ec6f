"""Judging: from evidence and claims to verdicts, the whole family at once. Pure; the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mtlfleet.plan.claims import Claim
from mtlfleet.plan.streams import stream
from mtlfleet.plan.trial import digest
from mtlfleet_analysis.context import context
from mtlfleet_analysis.decision import Decision, ShiftTest, claim_p, decide, holm_levels
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.guards import Guard, fired
from mtlfleet_analysis.intervals import Mean, mean_of_means, stratified_mean
from mtlfleet_analysis.multiplicity import benjamini_hochberg, holm
from mtlfleet_analysis.pairing import Pair, Pairing, pair
from mtlfleet_analysis.planning import Noise, datasets_needed, power, seeds_needed
from mtlfleet_analysis.registering import Standing, standing
from mtlfleet_analysis.sensitivity import dataset_means, main_test, rows
from mtlfleet_analysis.sentences import sentence
from mtlfleet_analysis.verdict import Verdict, plain

if TYPE_CHECKING:
    from mtlfleet.plan import Study
    from mtlfleet.store import Store


@dataclass(frozen=True)
class Case:
    """One claim with what was found before its family is looked at."""

    claim: Claim
    pairing: Pairing
    guards: tuple[Guard, ...]
    standing: Standing
    registration: str
    seed: int

    @cached_property
    def p(self) -> float:
        """The claim's own p; 1 where a guard fired, so that the claim stays in its family."""
        return claim_p(self.claim, self.test) if self.pairs and not self.guards else 1.0

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self.pairing.pairs

    @cached_property
    def test(self) -> ShiftTest:
        return main_test(self.claim, self.pairs, self.seed)

    @property
    def mean(self) -> Mean:
        """The estimate behind the printed interval."""
        if self.claim.scope == "datasets_like_these":
            return mean_of_means(list(dataset_means(self.pairs).values()))
        return stratified_mean([p.difference for p in self.pairs], [p.stratum for p in self.pairs])


def judge(study: Study, store: Store) -> tuple[Verdict, ...]:
    """The verdicts on a study's claims, in the order of the study file."""
    from mtlfleet_analysis.loading import from_store

    return judge_evidence(from_store(study, store), study.claims)


def judge_evidence(evidence: Evidence, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
    """Judge all claims: Holm over the registered claims of a family, Benjamini-Hochberg over the unregistered ones."""
    cases = [_case(evidence, claim) for claim in claims]
    levels: dict[str, tuple[float, float, int]] = {}  # claim id -> adjusted p, level, family size
    for family in dict.fromkeys((c.claim.family, c.standing.confirmatory) for c in cases):
        members = [c for c in cases if (c.claim.family, c.standing.confirmatory) == family]
        p = [c.p for c in members]
        adjusted = (holm if family[1] else benjamini_hochberg)(p)
        at = holm_levels(p, [c.claim.alpha for c in members]) if family[1] else [c.claim.alpha for c in members]
        size = len(members)
        levels |= {c.claim.id: (float(a), level, size) for c, a, level in zip(members, adjusted, at, strict=True)}
    return tuple(_verdict(evidence, case, *levels[case.claim.id]) for case in cases)


def _case(evidence: Evidence, claim: Claim) -> Case:
    pairing = pair(evidence, claim)
    guards = fired(evidence, claim, pairing)
    registration = claim.registration(evidence.sha256)
    seed = stream(int(registration[:15], 16), "sign-flip")
    return Case(claim, pairing, guards, standing(evidence, claim), registration, seed)


def _verdict(evidence: Evidence, case: Case, p_adjusted: float, level: float, family_size: int) -> Verdict:
    claim = case.claim
    detail = context(evidence, claim, case.pairing, case.standing) | {"family_size": family_size, "level": level}
    made = Verdict(
        claim=claim,
        verdict="invalid",
        guards=tuple(str(guard) for guard in case.guards),
        n_pairs=len(case.pairs),
        n_datasets=len({p.dataset for p in case.pairs}),
        sha256=digest(plain({"registration": case.registration, "pairs": detail["pairs"]})),
        detail=detail,
    )
    if not case.guards:
        made = _measured(made, case, p_adjusted, level)
    return replace(made, sentence=sentence(made))


def _measured(made: Verdict, case: Case, p_adjusted: float, level: float) -> Verdict:
    """The verdict of a claim that no guard stops."""
    claim, mean, test = case.claim, case.mean, case.test
    low, high = mean.interval(0.95)
    decision = decide(claim, test, level)
    others = rows(claim, case.pairs, level, case.seed)
    noise = Noise.of(
        np.array([p.difference for p in case.pairs]), [p.stratum for p in case.pairs], [p.dataset for p in case.pairs]
    )
    extra = {
        "limits": list(test.limits(level)),
        "would_be": decision.answer,
        "sensitivity": [
            {"analysis": r.analysis, "effect": r.effect, "p": r.p_value, "verdict": r.decision.answer} for r in others
        ],
        "datasets_needed": datasets_needed(claim, noise, level) if noise else None,
    }
    shown = decision if case.standing.confirmatory else Decision("observed", _direction(test, claim.alpha))
    return replace(
        made,
        verdict=shown.answer,
        label=shown.label,
        effect=mean.estimate,
        ci_low=low,
        ci_high=high,
        p_value=case.p,
        p_adjusted=p_adjusted,
        power=power(claim, noise, noise.seeds, level) if noise and claim.margin > 0 else None,
        seeds_needed=seeds_needed(claim, noise, level) if noise else None,
        fragile=any(r.decision.answer != decision.answer for r in others),
        detail={**made.detail, **extra},
    )


def _direction(test: ShiftTest, alpha: float) -> str:
    if test.above(0.0) <= alpha / 2:
        return "better"
    return "worse" if test.below(0.0) <= alpha / 2 else "no difference shown"
