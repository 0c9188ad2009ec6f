"""Who is compared with whom: the same dataset, architecture and seed, and a baseline that validation chose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.evidence import Evidence, Run
from mtlfleet_analysis.scoring import Place, Score, outcomes, scale_of, score


@dataclass(frozen=True, order=True)
class Pair:
    """One paired outcome, both scored as improvements (higher = better)."""

    dataset: str
    architecture: str
    seed: int
    method: float
    baseline: float
    method_imputed: bool = False
    baseline_imputed: bool = False

    @property
    def difference(self) -> float:
        return self.method - self.baseline

    @property
    def stratum(self) -> Place:
        return self.dataset, self.architecture

    @property
    def imputed(self) -> bool:
        return self.method_imputed or self.baseline_imputed


@dataclass(frozen=True)
class Choice:
    """The baseline of one place, with each candidate's validation score (higher = better)."""

    dataset: str
    architecture: str
    baseline: str | None
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Pairing:
    """All pairs of a claim; ``missing`` names outcomes still owed: (method, dataset, architecture, seed, state).

    ``excluded``: pairs with a failed run, where the claim declares that they are left out.
    """

    pairs: tuple[Pair, ...]
    choices: tuple[Choice, ...]
    missing: tuple[tuple[str, str, str, int, str], ...]
    excluded: tuple[Pair, ...] = ()


def places(evidence: Evidence, claim: Claim) -> tuple[Place, ...]:
    """(dataset, architecture) cells that the claim speaks of, in the study's order."""
    architectures = claim.architectures or evidence.architectures
    return tuple((d, a) for d in claim.datasets or evidence.datasets for a in architectures)


def seeds_of(evidence: Evidence, claim: Claim) -> tuple[int, ...]:
    """The seeds every arm owes: the study's, or all that were run where the study names none."""
    names = {claim.method, *claim.baseline.best_of}
    return evidence.seeds or tuple(sorted({run.seed for run in evidence.phase("final") if run.method in names}))


def selected_tune_runs(evidence: Evidence) -> tuple[Run, ...]:
    """The tune-phase runs of the configurations that the final phase uses."""
    chosen = {(r.method, r.dataset, r.architecture, r.task): r.config_index for r in evidence.phase("final")}
    return tuple(
        run
        for run in evidence.phase("tune")
        if chosen.get((run.method, run.dataset, run.architecture, run.task)) == run.config_index
    )


def choose_baseline(evidence: Evidence, claim: Claim, place: Place) -> Choice:
    """The best of the named baselines at one place, by the claim's estimand on validation over the tuning seeds.

    Reads no final run's numbers. A single candidate needs no choice; ``baseline`` is None where one has no score.
    """
    dataset, architecture = place
    names = claim.baseline.best_of
    if len(names) == 1:
        return Choice(dataset, architecture, names[0], {})
    runs = selected_tune_runs(evidence)
    scale = scale_of(evidence, runs, dataset, "val")
    found: dict[str, list[float]] = {}
    for (method, at, on, _seed), outcome in outcomes(runs, "val").items():
        if method in names and (at, on) == place:
            result = score(outcome, scale, architecture, claim.estimand, evidence)
            if result is not None:
                found.setdefault(method, []).append(result.value)
    means = {name: math.fsum(sorted(found[name])) / len(found[name]) for name in names if name in found}
    best = max(names, key=lambda name: means[name]) if len(means) == len(names) else None
    return Choice(dataset, architecture, best, means)


def pair(evidence: Evidence, claim: Claim) -> Pairing:
    """Match the method with its baseline at every place and seed of the claim."""
    runs = evidence.phase("final")
    joined = outcomes(runs, "test")
    pairs: list[Pair] = []
    choices: list[Choice] = []
    missing: list[tuple[str, str, str, int, str]] = []
    scales = {dataset: scale_of(evidence, runs, dataset, "test") for dataset, _ in places(evidence, claim)}
    for dataset, architecture in places(evidence, claim):
        choice = choose_baseline(evidence, claim, (dataset, architecture))
        choices.append(choice)
        for seed in seeds_of(evidence, claim):
            scored: list[Score] = []
            for name in (claim.method, choice.baseline):
                if name is None:
                    continue
                outcome = joined.get((name, dataset, architecture, seed))
                scale = scales[dataset]
                result = score(outcome, scale, architecture, claim.estimand, evidence) if outcome else None
                if result is None:
                    state = "missing" if outcome is None else ",".join(sorted(set(outcome.states.values())))
                    missing.append((name, dataset, architecture, seed, state))
                else:
                    scored.append(result)
            if len(scored) == 2:
                a, b = scored
                pairs.append(Pair(dataset, architecture, seed, a.value, b.value, a.imputed, b.imputed))
    left_out = {p for p in pairs if p.imputed} if claim.failures == "exclude" else set()
    kept = tuple(sorted(p for p in pairs if p not in left_out))
    return Pairing(kept, tuple(choices), tuple(missing), tuple(sorted(left_out)))


def swapped(claim: Claim) -> Claim:
    """The same claim with method and (single) baseline exchanged."""
    return replace(claim, method=claim.baseline.best_of[0], baseline=replace(claim.baseline, best_of=(claim.method,)))
