"""Judging: from evidence and claims to verdicts, the whole family at once. Pure; the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlfleet.plan.claims import Claim
from mtlfleet.plan.streams import stream
from mtlfleet.plan.trial import digest
from mtlfleet_analysis.context import context
from mtlfleet_analysis.decision import Decision, ShiftTest, claim_p, decide
from mtlfleet_analysis.estimands import win_rate
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.families import levels
from mtlfleet_analysis.followups import follow_ups
from mtlfleet_analysis.guards import Guard, fired
from mtlfleet_analysis.looks import Look, looks
from mtlfleet_analysis.pairing import Pair
from mtlfleet_analysis.planning import Noise, datasets_needed, power, seeds_needed
from mtlfleet_analysis.questions import Gathered, Question, gather, pose
from mtlfleet_analysis.registering import Standing, standing
from mtlfleet_analysis.sensitivity import mean_of, rows
from mtlfleet_analysis.sentences import sentence
from mtlfleet_analysis.sequential import Anytime, Scheduled
from mtlfleet_analysis.verdict import Verdict, plain

if TYPE_CHECKING:
    from mtlfleet.plan import Study
    from mtlfleet.store import Store


@dataclass(frozen=True)
class Case:
    """One claim with what was found before its family is looked at."""

    claim: Claim
    looks: tuple[Look, ...]
    gathered: tuple[Gathered, ...]
    guards: tuple[Guard, ...]
    standing: Standing
    registration: str
    seed: int

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """What is asked at each look reached."""
        return tuple(pose(found, self.seed) for found in self.gathered)

    @cached_property
    def test(self) -> ShiftTest:
        tests = tuple(q.test for q in self.questions)
        if self.claim.stopping.kind != "group_sequential":
            return tests[-1]
        return Scheduled(tests, tuple(look.share for look in self.looks))

    @cached_property
    def eps(self) -> float:
        return max(q.eps for q in self.questions)

    @cached_property
    def p(self) -> float:
        """The claim's own p; 1 where a guard fired, so that the claim stays in its family."""
        return 1.0 if self.guards else claim_p(self.claim, self.test, self.eps)

    @property
    def pairs(self) -> tuple[Pair, ...] | None:
        return None if self.guards else self.questions[-1].focus.pairs

    def decided(self, level: float) -> tuple[Decision, int]:
        """The decision, and at which look (from 0) it was reached: the first that decides stands."""
        if not isinstance(self.test, Scheduled):
            return self._at(self.test, self.questions[-1], level), len(self.looks) - 1
        decision = Decision("inconclusive")
        for i, question in enumerate(self.questions):
            decision = self._at(self.test.until(i + 1), question, level)
            if decision.answer != "inconclusive":
                return decision, i
        return decision, len(self.questions) - 1

    def _at(self, test: ShiftTest, question: Question, level: float) -> Decision:
        decision = decide(self.claim, test, level, self.eps)
        if decision.answer == "supported" and self.claim.alternative == "superiority" and question.grid_too_coarse:
            return Decision("inconclusive", "sweep too coarse")
        return decision


def judge(study: Study, store: Store) -> tuple[Verdict, ...]:
    """The verdicts on a study's claims, in the order of the study file."""
    from mtlfleet_analysis.loading import from_store

    return judge_evidence(from_store(study, store), study.claims)


@dataclass(frozen=True)
class Judged:
    """A case with what its family left it, and the decision that follows, reached ``at`` a look (from 0)."""

    case: Case
    p_adjusted: float
    level: float
    family_size: int

    @cached_property
    def reached(self) -> tuple[Decision, int]:
        if self.case.guards:
            return Decision("invalid"), len(self.case.looks) - 1
        return self.case.decided(self.level)


def judge_evidence(evidence: Evidence, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
    """Judge all claims: the decisions, each with everything that is printed beside it."""
    return tuple(_verdict(evidence, judged) for judged in decisions(evidence, claims))


def decisions(evidence: Evidence, claims: Sequence[Claim]) -> tuple[Judged, ...]:
    """Decide all claims: Holm or max-T over the registered claims of a family, Benjamini-Hochberg over the others."""
    cases = [_case(evidence, claim) for claim in claims]
    found: dict[str, Judged] = {}
    for family in dict.fromkeys((c.claim.family, c.standing.confirmatory) for c in cases):
        members = [c for c in cases if (c.claim.family, c.standing.confirmatory) == family]
        seed = stream(int(members[0].registration[:15], 16), "max-t")
        pairs = [c.pairs if c.claim.correction == "max_t" else None for c in members]
        at = levels([c.claim for c in members], [c.p for c in members], pairs, seed, family[1])
        found |= {c.claim.id: Judged(c, *one, len(members)) for c, one in zip(members, at, strict=True)}
    return tuple(found[case.claim.id] for case in cases)


def _case(evidence: Evidence, claim: Claim) -> Case:
    reached = looks(evidence, claim)
    gathered = tuple(gather(look.evidence, claim) for look in reached)
    guards = fired(reached[-1].evidence, claim, gathered[-1].guarded)
    registration = claim.registration(evidence.sha256)
    seed = stream(int(registration[:15], 16), "sign-flip")
    return Case(claim, reached, gathered, guards, standing(evidence, claim), registration, seed)


def _verdict(evidence: Evidence, judged: Judged) -> Verdict:
    case, claim = judged.case, judged.case.claim
    decision, at = judged.reached
    pairing = case.gathered[at].shown if case.guards else case.questions[at].focus
    detail = context(case.looks[at].evidence, claim, pairing, case.standing)
    detail |= {"family_size": judged.family_size, "level": judged.level, "look": _look(evidence, case, at)}
    made = Verdict(
        claim=claim,
        verdict="invalid",
        guards=tuple(str(guard) for guard in case.guards),
        n_pairs=len(pairing.pairs),
        n_datasets=len({p.dataset for p in pairing.pairs}),
        sha256=digest(plain({"registration": case.registration, "pairs": detail["pairs"]})),
        detail=detail,
    )
    if not case.guards:
        made = _measured(made, case, decision, at, judged.p_adjusted, judged.level)
    return replace(made, sentence=sentence(made))


def _look(evidence: Evidence, case: Case, at: int) -> dict[str, Any]:
    """Which look the verdict rests on; seeds beyond it are known and not used."""
    stopping, look = case.claim.stopping, case.looks[at]
    return {
        "kind": stopping.kind,
        "number": look.number,
        "of": len(stopping.looks) or 1,
        "seeds": look.seeds,
        "unused_seeds": len({r.seed for r in evidence.phase("final")}) - look.seeds if stopping.kind != "fixed" else 0,
        "share": look.share,
    }


def _measured(made: Verdict, case: Case, decision: Decision, at: int, p_adjusted: float, level: float) -> Verdict:
    """The verdict of a claim that no guard stops."""
    claim, question = case.claim, case.questions[at]
    pairs, test = question.focus.pairs, case.test.until(at + 1) if isinstance(case.test, Scheduled) else case.test
    own = level * case.looks[at].share  # what this look spends
    fixed = not isinstance(test, Anytime)  # the power of a test that may go on for ever is no property of its seeds
    mean = mean_of(claim, pairs)
    low, high = test.limits(0.025) if isinstance(test, Anytime) else mean.interval(0.95)
    others = rows(claim, pairs, own, case.seed, case.eps, case.gathered[at].order, question.focus.excluded)
    sampled = [claim.family_of(p.dataset) for p in pairs]
    noise = Noise.of(np.array([p.difference for p in pairs]), [p.stratum for p in pairs], sampled)
    extra: dict[str, Any] = {
        "limits": list(test.limits(level)),
        "would_be": decision.answer,
        "sensitivity": [
            {
                "analysis": r.analysis,
                "effect": r.effect,
                "p": r.p_value,
                "verdict": r.decision.answer,
                "able": r.able,
            }
            for r in others
        ],
        "datasets_needed": datasets_needed(claim, noise, own, case.eps) if noise else None,
        "win_rate": win_rate([p.method for p in pairs], [p.baseline for p in pairs]),
        "e_value": test.e_value(case.eps) if isinstance(test, Anytime) else None,
        "follow_ups": follow_ups(case.gathered[at], decision, own, case.seed),
        **(question.facts or {}),
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
        power=power(claim, noise, noise.seeds, own, eps=case.eps) if noise and claim.margin > 0 and fixed else None,
        seeds_needed=seeds_needed(claim, noise, own, case.eps) if noise and fixed else None,
        fragile=decision.label != "sweep too coarse"
        and any(r.able and r.decision.answer != decision.answer for r in others),
        detail={**made.detail, **extra},
    )


def _direction(test: ShiftTest, alpha: float) -> str:
    if test.above(0.0) <= alpha / 2:
        return "better"
    return "worse" if test.below(0.0) <= alpha / 2 else "no difference shown"
