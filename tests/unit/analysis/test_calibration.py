"""Studies in which nothing is true: how often does the judging say otherwise? And does the harness notice bad practice?

Differences have t(5) tails and another scale in every dataset. Bounds are the nominal level plus what 99.9 % of honest
tests stay within at this number of studies.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from mtlfleet.plan.claims import Baseline, Claim
from mtlfleet_analysis import holm, sign_flip_test
from mtlfleet_analysis.decision import FlipTest, claim_p, decide
from mtlfleet_analysis.intervals import mean_of_means, stratified_mean
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.simulation import Design, simulate

STUDIES = 800
CELLS = [(1, 5), (1, 10), (2, 6), (3, 3), (3, 5)]


def bound(level: float, studies: int = STUDIES) -> float:
    return float(stats.binom.ppf(0.999, studies, level)) / studies


def null_study(rng: np.random.Generator, datasets: int, seeds: int, effect: float = 0.0) -> np.ndarray:
    """[datasets, seeds] paired differences with mean ``effect``."""
    scale = rng.lognormal(0.0, 0.5, size=(datasets, 1))
    return effect + scale * rng.standard_t(5, size=(datasets, seeds)) / np.sqrt(5 / 3)


def rate(decides: Callable[[np.ndarray], bool], datasets: int, seeds: int, effect: float = 0.0) -> float:
    rng = np.random.default_rng([datasets, seeds])
    return float(np.mean([decides(null_study(rng, datasets, seeds, effect)) for _ in range(STUDIES)]))


def strata(d: np.ndarray) -> list[int]:
    return list(np.repeat(np.arange(d.shape[0]), d.shape[1]))


def sign_flip_supports(d: np.ndarray) -> bool:
    return sign_flip_test(d.ravel(), strata(d), "greater").p_value <= 0.05


@pytest.mark.parametrize(("datasets", "seeds"), CELLS)
def test_false_support_stays_at_the_nominal_level(datasets: int, seeds: int) -> None:
    found = rate(sign_flip_supports, datasets, seeds)
    assert found <= bound(0.05)
    assert found > 0.005, "the test never rejects: the harness would not notice anything"


@pytest.mark.parametrize(("datasets", "seeds"), [(1, 5), (3, 5)])
def test_two_sided_and_interval_errors(datasets: int, seeds: int) -> None:
    assert rate(lambda d: sign_flip_test(d.ravel(), strata(d)).p_value <= 0.05, datasets, seeds) <= bound(0.05)

    def misses(d: np.ndarray) -> bool:
        low, high = stratified_mean(d.ravel(), strata(d)).interval(0.95)
        return not low <= 0.0 <= high

    assert rate(misses, datasets, seeds) <= bound(0.055)


@pytest.mark.parametrize("alternative", ["non_inferiority", "equivalence", "no_better_than"])
def test_false_support_at_the_margin(alternative: str) -> None:
    """The truth lies exactly where the claim starts to be false."""
    margin = 0.8
    truth = margin if alternative == "no_better_than" else -margin
    one = Claim(id="c", method="a", baseline=Baseline(best_of=("b",)), alternative=alternative, margin=margin)

    def supports(d: np.ndarray) -> bool:
        return claim_p(one, FlipTest.of(list(d.ravel()), strata(d), 0)) <= 0.05

    assert rate(supports, 2, 6, truth) <= bound(0.05)


def test_refuted_at_the_margin_is_as_rare_as_supported_at_zero() -> None:
    one = Claim(id="c", method="a", baseline=Baseline(best_of=("b",)), margin=0.8)

    def refutes(d: np.ndarray) -> bool:
        return decide(one, FlipTest.of(list(d.ravel()), strata(d), 0), 0.05).answer == "refuted"

    assert rate(refutes, 2, 5, 0.8) <= bound(0.05)


def test_population_claims_hold_their_level_where_seed_level_tests_do_not() -> None:
    """Every dataset has its own true effect, zero on average: more seeds must not turn that into a general claim."""
    rng = np.random.default_rng(7)
    dataset_level = seed_level = 0
    for _ in range(STUDIES):
        d = null_study(rng, 5, 4) + 2.0 * rng.standard_normal((5, 1))
        dataset_level += mean_of_means(d.mean(axis=1)).above(0.0) <= 0.05
        seed_level += sign_flip_supports(d)
    assert dataset_level / STUDIES <= bound(0.05)
    assert seed_level / STUDIES > bound(0.05)


def test_a_family_of_methods_and_the_negative_control() -> None:
    """Ten null methods against one baseline: Holm keeps the family's error; "the best mean is bold" is caught."""
    rng = np.random.default_rng(8)
    false_support = bold = higher = 0
    for _ in range(STUDIES):
        baseline = null_study(rng, 2, 5)
        methods = [null_study(rng, 2, 5) - baseline for _ in range(10)]
        p = [sign_flip_test(d.ravel(), strata(d), "greater").p_value for d in methods]
        false_support += bool((holm(p) <= 0.05).any())
        bold += max(d.mean() for d in methods) > 0
        higher += methods[0].mean() > 0
    assert false_support / STUDIES <= bound(0.05)
    assert higher / STUDIES > 0.4
    assert bold / STUDIES > 0.9


def test_failures_scored_worst_keep_the_level_where_dropping_them_does_not() -> None:
    rng = np.random.default_rng(9)
    itt = dropped = 0
    for _ in range(STUDIES):
        a, b = rng.standard_normal((2, 12))
        failed = a <= np.quantile(a, 0.2)
        scored = np.where(failed, min(a.min(), b.min()), a)
        itt += sign_flip_test(scored - b, alternative="greater").p_value <= 0.05
        dropped += sign_flip_test((a - b)[~failed], alternative="greater").p_value <= 0.05
    assert itt / STUDIES <= bound(0.05)
    assert dropped / STUDIES > bound(0.05)


def test_the_whole_path_from_runs_to_verdict() -> None:
    """Simulated runs, every guard, judged whole: an A/A study is not supported too often."""
    studies, supported = 80, 0
    one = Claim(id="c", method="pcgrad", baseline=Baseline(best_of=("ls",)), margin=0.5)
    for seed in range(studies):
        design = Design(effects={"ls": 0.0, "pcgrad": 0.0}, datasets=("a",), seeds=tuple(range(6)), tuning_seeds=(901,))
        supported += judge_evidence(simulate(design, seed, [one]), [one])[0].verdict == "supported"
    assert supported / studies <= bound(0.05, studies)


def test_power_is_what_planning_promises() -> None:
    """One standard deviation, one dataset, ten seeds: close to the non-central t's answer, and above the floor."""
    found = rate(lambda d: sign_flip_test(d.ravel(), alternative="greater").p_value <= 0.05, 1, 10, 1.0)
    assert found >= 0.7
