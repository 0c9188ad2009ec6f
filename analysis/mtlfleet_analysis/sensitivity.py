"""Would another defensible analysis have said the same? If one does not, the verdict is marked fragile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.decision import Decision, FlipTest, ShiftTest, claim_p, decide
from mtlfleet_analysis.intervals import Mean, mean_of_means, resampled_mean, stratified_mean
from mtlfleet_analysis.pairing import Pair
from mtlfleet_analysis.sequential import Anytime
from mtlfleet_analysis.signflip import FLIPS, Floats
from mtlfleet_analysis.significance import wilcoxon_signed_rank

FEWER = 9_999  # random flips of a sensitivity row, which is compared with the verdict and not quoted


@dataclass(frozen=True)
class RankTest:
    """Wilcoxon's signed-rank test, shifted by theta; it knows no strata."""

    differences: Floats

    def above(self, theta: float) -> float:
        return wilcoxon_signed_rank(self.differences - theta, "greater").p_value

    def below(self, theta: float) -> float:
        return wilcoxon_signed_rank(self.differences - theta, "less").p_value

    def limits(self, alpha: float) -> tuple[float, float]:
        raise NotImplementedError(f"a sensitivity row prints no limits (asked at {alpha})")


@dataclass(frozen=True)
class Row:
    """One other analysis: what it is, its effect, its p and its verdict.

    ``able``: whether it has pairs enough to decide anything at the claim's level; one that has not makes nothing
    fragile.
    """

    analysis: str
    effect: float
    p_value: float
    decision: Decision
    able: bool = True


def dataset_means(pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean difference of each dataset: over its architectures, each the mean over its seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for p in pairs:
        found.setdefault(p.dataset, {}).setdefault(p.architecture, []).append(p.difference)
    return {d: float(np.mean(np.sort([np.mean(np.sort(v)) for v in by.values()]))) for d, by in sorted(found.items())}


def sampled_means(claim: Claim, pairs: Sequence[Pair]) -> list[float]:
    """What a t test over datasets counts: their means, averaged within each family."""
    found: dict[str, list[float]] = {}
    for dataset, mean in dataset_means(pairs).items():
        found.setdefault(claim.family_of(dataset), []).append(mean)
    return [float(np.mean(np.sort(means))) for _, means in sorted(found.items())]


def mean_of(claim: Claim, pairs: Sequence[Pair]) -> Mean:
    """The estimate with its standard error, as the claim's scope and splits ask for."""
    if claim.scope == "datasets_like_these":
        return mean_of_means(sampled_means(claim, pairs))
    if claim.splits.kind == "resampled":
        return resampled_mean(sampled_means(claim, pairs), claim.splits.test_fraction or 0.0)
    return stratified_mean([p.difference for p in pairs], [p.stratum for p in pairs])


def by_seed(pairs: Sequence[Pair], order: Sequence[int]) -> Floats:
    """Mean difference of each seed over the strata, in the study's order of seeds: a stream that can be followed."""
    found = {s: [p.difference for p in pairs if p.seed == s] for s in order}
    return np.array([np.mean(np.sort(values)) for values in found.values() if values])


def main_test(
    claim: Claim, pairs: Sequence[Pair], seed: int, flips: int = FLIPS, order: Sequence[int] | None = None
) -> ShiftTest:
    """The test a claim's scope, splits and stopping rule ask for. ``order``: the study's seeds."""
    if claim.scope == "datasets_like_these" or claim.splits.kind == "resampled":
        return mean_of(claim, pairs)
    if claim.stopping.kind == "anytime":
        return Anytime(by_seed(pairs, order or sorted({p.seed for p in pairs})))
    return FlipTest.of([p.difference for p in pairs], [p.stratum for p in pairs], seed, flips)


def _others(
    claim: Claim, pairs: Sequence[Pair], seed: int, order: Sequence[int] | None, excluded: Sequence[Pair]
) -> Iterator[tuple[str, Sequence[Pair], ShiftTest]]:
    differences = np.array([p.difference for p in pairs])
    means = np.array(sampled_means(claim, pairs))
    if claim.scope == "datasets_like_these":
        if means.size >= 5:
            yield "sign-flip of dataset means", pairs, FlipTest.of(list(means), [0] * means.size, seed)
            yield "Wilcoxon of dataset means", pairs, RankTest(means)
    elif claim.splits.kind != "resampled" and claim.stopping.kind != "anytime":
        by_t = stratified_mean(differences, [p.stratum for p in pairs])
        if np.isfinite(by_t.se):
            yield "stratified t", pairs, by_t
        yield "Wilcoxon signed-rank", pairs, RankTest(differences)
    smallest = 1 if claim.scope == "these_datasets" and claim.splits.kind != "resampled" else 2
    names = sorted({claim.family_of(p.dataset) for p in pairs})
    if len(names) > smallest:
        for name in names:
            rest = [p for p in pairs if claim.family_of(p.dataset) != name]
            yield f"without {name}", rest, main_test(claim, rest, seed, FEWER, order)
    if excluded:
        everything = sorted([*pairs, *excluded])
        yield "failed runs scored worst", everything, main_test(claim, everything, seed, FEWER, order)
    whole = [p for p in pairs if not p.imputed]
    if len(whole) < len(pairs) and len({claim.family_of(p.dataset) for p in whole}) >= smallest:
        yield "complete cases only", whole, main_test(claim, whole, seed, FEWER, order)


def rows(
    claim: Claim,
    pairs: Sequence[Pair],
    alpha: float,
    seed: int,
    eps: float = 0.0,
    order: Sequence[int] | None = None,
    excluded: Sequence[Pair] = (),
) -> tuple[Row, ...]:
    """Every other analysis at the same level."""
    found = []
    for name, used, test in _others(claim, pairs, seed, order, excluded):
        effect = float(np.mean(sampled_means(claim, used)))
        able = not isinstance(test, FlipTest | RankTest) or 2.0**-test.differences.size <= alpha
        found.append(Row(name, effect, claim_p(claim, test, eps), decide(claim, test, alpha, eps), able))
    return tuple(found)
