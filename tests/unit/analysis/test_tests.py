"""Our tests against scipy, statsmodels and scikit-posthocs, and against what must hold of any such test."""

from __future__ import annotations

import numpy as np
import pytest
import scikit_posthocs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from mtlfleet_analysis import (
    bayesian_correlated_t,
    benjamini_hochberg,
    corrected_t_test,
    friedman_test,
    holm,
    hypervolume,
    iqm,
    nemenyi_critical_difference,
    probability_of_improvement,
    quade_test,
    shaffer,
    sign_flip_test,
    tost,
    wilcoxon_signed_rank,
)
from mtlfleet_analysis.decision import FlipTest, holm_levels
from mtlfleet_analysis.intervals import paired_power, stratified_mean
from mtlfleet_analysis.pareto import non_dominated
from mtlfleet_analysis.signflip import FlipMeans

ALTERNATIVES = ("two-sided", "greater", "less")


def draws(seed: int, n: int, shift: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, n)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("n", [1, 2, 5, 9, 12])
def test_sign_flip_equals_scipys_enumeration(alternative: str, n: int) -> None:
    d = draws(n, n)
    mine = sign_flip_test(d, alternative=alternative)
    if n == 1:
        assert (
            mine.p_value
            == {"two-sided": 1.0, "greater": 0.5 if d[0] > 0 else 1.0, "less": 1.0 if d[0] > 0 else 0.5}[alternative]
        )
        return
    theirs = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
    )
    assert mine.exact
    assert mine.p_value == pytest.approx(theirs.pvalue, abs=1e-12)
    assert mine.statistic == pytest.approx(theirs.statistic)


def test_stratified_sign_flip_equals_brute_force() -> None:
    d, strata = draws(3, 9), list("aaabbbbbc")
    groups = [[i for i, s in enumerate(strata) if s == g] for g in "abc"]

    def mean_of_means(x: np.ndarray) -> float:
        return float(np.mean([x[g].mean() for g in groups]))

    signs = 2 * ((np.arange(2**9)[:, None] >> np.arange(9)) & 1) - 1
    all_of_them = np.array([mean_of_means(s * d) for s in signs])
    found = sign_flip_test(d, strata, "greater")
    assert found.statistic == pytest.approx(mean_of_means(d))
    assert found.p_value == np.mean(all_of_them >= mean_of_means(d) - 1e-12)


def test_sampled_flips_agree_with_the_exact_answer_and_repeat() -> None:
    d = draws(11, 23)
    found = sign_flip_test(d, alternative="greater")
    assert not found.exact
    assert found == sign_flip_test(d, alternative="greater")
    assert found.p_value * 100_000 == pytest.approx(round(found.p_value * 100_000), abs=1e-6)
    sums = np.zeros(1)  # all 2^23 of them, for once
    for magnitude in np.abs(d):
        sums = np.concatenate((sums - magnitude, sums + magnitude))
    exact = np.mean(sums >= d.sum() - 1e-9)
    assert found.p_value == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 99_999) + 1e-5)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12), st.integers(1, 1000), st.randoms())
@settings(max_examples=60, deadline=None)
def test_sign_flip_symmetries(values: list[int], scale: int, random: object) -> None:
    d = np.array(values, dtype=float)
    two = sign_flip_test(d).p_value
    assert sign_flip_test(-d).p_value == two
    assert sign_flip_test(d * scale / 7).p_value == two
    assert sign_flip_test(d, alternative="greater").p_value == sign_flip_test(-d, alternative="less").p_value
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sign_flip_test(shuffled).p_value == two
    assert 2.0 ** -len(values) <= sign_flip_test(d, alternative="greater").p_value <= 1.0


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [6, 10, 24])
def test_limits_invert_the_test(n: int, alpha: float) -> None:
    d, strata = draws(n, n), [i % 3 for i in range(n)]
    low, high = FlipMeans.of(d, strata, seed=1).limits(alpha)
    test = FlipTest.of(list(d), strata, seed=1)
    if 2.0**-n > alpha:
        assert low == -np.inf
        return
    slack = 1e-9
    assert test.above(low - slack) <= alpha < test.above(low + slack)
    assert test.below(high + slack) <= alpha < test.below(high - slack)


def test_too_few_differences_have_no_limit() -> None:
    assert FlipMeans.of([1.0, 1.1, 0.9], ["a"] * 3).limits(0.05) == (-np.inf, np.inf)


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [1.0, np.nan]])
def test_sign_flip_refuses_what_it_cannot_test(bad: list[object]) -> None:
    with pytest.raises(ValueError, match="differences"):
        sign_flip_test(bad)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_wilcoxon_against_scipy(alternative: str) -> None:
    d = np.round(draws(5, 30), 1)
    theirs = stats.wilcoxon(d, zero_method="zsplit", alternative=alternative)
    mine = wilcoxon_signed_rank(d, alternative)
    assert (mine.statistic, mine.p_value) == (theirs.statistic, theirs.pvalue)
    assert mine.rank_plus + mine.rank_minus == 30 * 31 / 2
    assert wilcoxon_signed_rank([0.0, 0.0]).p_value == 1.0


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_corrected_t_without_overlap_is_the_paired_t(alternative: str) -> None:
    d = draws(2, 8)
    theirs = stats.ttest_1samp(d, 0.0, alternative=alternative)
    mine = corrected_t_test(d, 0.0, alternative)
    assert (mine.statistic, mine.p_value) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert abs(corrected_t_test(d, 0.1).statistic) < abs(mine.statistic)


def test_tost_against_statsmodels() -> None:
    d = draws(8, 12, 0.1)
    p, low, high = ttost_paired(d, np.zeros(12), -0.8, 0.8)
    found = tost(d, 0.8)
    assert (found.p_value, found.p_lower, found.p_upper) == pytest.approx((p, low[1], high[1]))


def test_bayesian_t_is_the_frequentist_one_read_backwards() -> None:
    d = draws(4, 10)
    left, rope, right = bayesian_correlated_t(d, 0.1, 0.25)
    assert left + rope + right == pytest.approx(1.0)
    assert bayesian_correlated_t(d, 0.1, 0.0)[0] == pytest.approx(corrected_t_test(d, 0.1, "greater").p_value)
    mirrored = bayesian_correlated_t(-d, 0.1, 0.25)
    assert mirrored == pytest.approx((right, rope, left))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=15, deadline=None)
def test_adjustments_against_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_holms_level_and_holms_adjusted_p_say_the_same(p: list[float]) -> None:
    levels = holm_levels(p, [0.05] * len(p))
    by_level = [value <= level for value, level in zip(p, levels, strict=True)]
    assert by_level == (holm(p) <= 0.05 + 1e-15).tolist()


def test_shaffers_multipliers_are_the_papers() -> None:
    """Shaffer 1986: how many of the hypotheses about four or five means can still be true after i - 1 rejections."""
    for k, multipliers in ((4, [6, 3, 3, 3, 2, 1]), (5, [10, 6, 6, 6, 6, 4, 4, 3, 2, 1])):
        p = 1e-30 * 10.0 ** np.arange(len(multipliers))  # far enough apart that no step is held up by the one before
        assert shaffer(p, k) / p == pytest.approx(multipliers)
    with pytest.raises(ValueError, match="6 pairs"):
        shaffer([0.1, 0.2], 4)


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
@settings(max_examples=50, deadline=None)
def test_shaffer_lies_between_the_raw_p_and_holm(p: list[float]) -> None:
    found = shaffer(p, 4)
    assert (found >= np.array(p) - 1e-12).all()
    assert (found <= holm(p) + 1e-12).all()


def test_friedman_against_scipy_and_nemenyi_against_posthocs() -> None:
    scores = np.random.default_rng(0).normal(size=(12, 5)) + np.arange(5) / 3
    theirs = stats.friedmanchisquare(*scores.T)
    mine = friedman_test(scores)
    assert (mine.statistic, mine.p_value) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert sum(mine.mean_ranks) == pytest.approx(15)
    table = scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy()
    gap = np.abs(np.subtract.outer(mine.mean_ranks, mine.mean_ranks))
    for alpha in (0.05, 0.3):
        apart = gap > nemenyi_critical_difference(5, 12, alpha)
        assert (apart == (table < alpha)).all()


def test_quade_of_two_treatments_is_the_paired_t_of_signed_ranks() -> None:
    """Conover 1999, section 5.8: for k = 2 Quade's F is the square of t computed on the signed ranks."""
    scores = np.random.default_rng(1).normal(size=(9, 2))
    d = scores[:, 1] - scores[:, 0]
    t = stats.ttest_1samp(np.sign(d) * stats.rankdata(np.abs(d)), 0.0)
    found = quade_test(scores)
    assert (found.statistic, found.p_value) == pytest.approx((t.statistic**2, t.pvalue))
    assert quade_test(scores * 3 + 1) == found


def test_iqm_and_improvement_of_rliables_own_tests() -> None:
    assert iqm([0, 1, 2, 3]) == 1.5
    assert iqm([0, 0, 2, 4, 8, 2, 2, 2]) == 2.0
    x, y = [[1.0], [2.0], [3.0]], [[3.0], [3.0], [0.5]]
    u = stats.mannwhitneyu(np.ravel(x), np.ravel(y)).statistic / 9
    assert probability_of_improvement(x, y) == pytest.approx(u)
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)


def test_power_against_statsmodels() -> None:
    for effect, n, alpha in ((0.5, 10, 0.05), (1.0, 5, 0.05), (0.8, 20, 0.01)):
        theirs = TTestPower().power(effect, n, alpha, alternative="larger")
        assert paired_power(effect, n, alpha, two_sided=False) == pytest.approx(theirs, abs=1e-6)


def test_stratified_interval_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(5), 0
    strata = [0] * 4 + [1] * 4 + [2] * 4
    for _ in range(2000):
        d = rng.normal([1.0] * 4 + [2.0] * 4 + [6.0] * 4, [0.5] * 4 + [1.0] * 4 + [3.0] * 4)
        low, high = stratified_mean(d, strata).interval(0.95)
        hits += low <= 3.0 <= high
    assert 0.935 <= hits / 2000 <= 0.975


@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_hypervolume_against_inclusion_and_exclusion(n: int, k: int, seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 9, size=(n, k)).astype(float)
    total = 0.0
    for subset in range(1, 2**n):
        chosen = points[[bool(subset >> i & 1) for i in range(n)]]
        total -= (-1) ** len(chosen) * np.prod(np.maximum(8 - chosen.max(axis=0), 0))
    assert hypervolume(points, 8) == pytest.approx(total)
    front = points[non_dominated(points)]
    assert hypervolume(front, 8) == pytest.approx(total)


def test_means_of_flipped_subsets_give_the_tests_own_p() -> None:
    d, strata = draws(6, 11), [i % 2 for i in range(11)]
    means = FlipMeans.of(d, strata)
    for theta in (-0.5, 0.0, 0.3, float(d[4])):
        assert means.above(theta) == sign_flip_test(d - theta, strata, "greater").p_value
        assert means.below(theta) == sign_flip_test(d - theta, strata, "less").p_value
    sampled = FlipTest.of(list(draws(6, 30)), [0] * 30, 3).above(0.0)
    assert sampled == pytest.approx(sign_flip_test(draws(6, 30), alternative="greater").p_value, abs=0.008)
