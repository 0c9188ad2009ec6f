"""Looking more than once: exact properties of the e-process, error over many looks, schedules, whole verdicts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtlfleet.plan.claims import Baseline, Claim, Stopping
from mtlfleet_analysis import sign_flip_test
from mtlfleet_analysis.decision import FlipTest
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.sequential import Anytime, Scheduled, wealth
from mtlfleet_analysis.simulation import Design, simulate
from mtlfleet_analysis.verdict import Verdict

LOOKS = Stopping(kind="group_sequential", looks=(5, 8, 12), alpha=(0.01, 0.015, 0.025))
OPEN = Stopping(kind="anytime")


def bound(level: float, studies: int) -> float:
    return float(stats.binom.ppf(0.999, studies, level)) / studies


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
@settings(max_examples=25, deadline=None)
def test_wealth_is_one_on_average_over_all_signs_at_every_step(sizes: list[float]) -> None:
    """Given the magnitudes the signs are fair coins: all 2^n streams, averaged, gain and lose nothing."""
    streams = [wealth(np.array(signs) * sizes) for signs in product((-1.0, 1.0), repeat=len(sizes))]
    assert np.mean(streams, axis=0) == pytest.approx(np.ones(len(sizes)))
    assert min(map(np.min, streams)) > 0


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(0.01, 100))
@settings(max_examples=40, deadline=None)
def test_wealth_knows_no_unit_and_only_looks_back(values: list[float], scale: float) -> None:
    d = np.array(values)
    assert wealth(d * scale) == pytest.approx(wealth(d), rel=1e-6)
    assert wealth(d[: len(d) // 2 + 1]) == pytest.approx(wealth(d)[: len(d) // 2 + 1])


def test_forty_looks_keep_the_level_where_peeking_with_a_t_test_does_not() -> None:
    rng, studies = np.random.default_rng(1), 1000
    anytime = peeking = 0
    for _ in range(studies):
        d = rng.standard_t(5, 40)
        anytime += bool((wealth(d) >= 20).any())
        means, n = np.cumsum(d) / np.arange(1, 41), np.arange(1, 41)
        spread = np.sqrt((np.cumsum(d**2) - n * means**2)[2:] / (n - 1)[2:] / n[2:])
        peeking += bool((means[2:] / spread >= stats.t.isf(0.05, n[2:] - 1)).any())
    assert anytime / studies <= 0.05
    assert peeking / studies > 0.15


def test_an_open_test_finds_what_is_there() -> None:
    rng = np.random.default_rng(2)
    found = [np.argmax(np.append(wealth(rng.normal(1.0, 1.0, 40)) >= 20, True)) + 1 for _ in range(200)]
    assert np.mean(np.array(found) <= 20) >= 0.7
    assert np.mean(found) < 20


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_confidence_sequence_inverts_the_open_test(alpha: float) -> None:
    test = Anytime(np.random.default_rng(3).normal(1.0, 0.5, 25))
    low, high = test.limits(alpha)
    assert test.above(low - 1e-6) <= alpha < test.above(low + 1e-6)
    assert test.below(high + 1e-6) <= alpha < test.below(high - 1e-6)
    assert low < 1.0 < high
    few = Anytime(np.ones(3))
    assert few.limits(0.05) == (-np.inf, np.inf)
    assert Anytime(-test.differences).limits(alpha) == pytest.approx((-high, -low))


def test_a_schedule_spends_each_looks_share() -> None:
    rng = np.random.default_rng(4)
    d = rng.normal(0.8, 1.0, 12)
    looks = tuple(FlipTest.of(list(d[:n]), [0] * n, 1) for n in LOOKS.looks)
    test = Scheduled(looks, tuple(a / 0.05 for a in LOOKS.alpha))
    p = [sign_flip_test(d[:n], alternative="greater").p_value for n in LOOKS.looks]
    assert test.above(0.0) == pytest.approx(min(x / (a / 0.05) for x, a in zip(p, LOOKS.alpha, strict=True)))
    assert (test.above(0.0) <= 0.05) == any(x <= a for x, a in zip(p, LOOKS.alpha, strict=True))
    low, _ = test.limits(0.05)
    assert test.above(low - 1e-9) <= 0.05 < test.above(low + 1e-9)
    assert test.until(1).above(0.0) == pytest.approx(min(1.0, p[0] / 0.2))


def test_scheduled_looks_keep_the_level_and_most_of_the_power() -> None:
    rng, studies = np.random.default_rng(5), 600
    looks, alphas = (5, 10, 20), (0.01, 0.015, 0.025)

    def decides(d: np.ndarray) -> tuple[bool, bool]:
        p = [sign_flip_test(d[:, :n].ravel(), list(np.repeat([0, 1], n)), "greater", flips=999).p_value for n in looks]
        return any(x <= a for x, a in zip(p, alphas, strict=True)), p[-1] <= 0.05

    null = np.mean([decides(rng.standard_t(5, (2, 20))) for _ in range(studies)], axis=0)
    real = np.mean([decides(0.5 + rng.standard_normal((2, 20))) for _ in range(200)], axis=0)
    assert null[0] <= bound(0.05, studies)
    assert real[0] >= real[1] - 0.13


# --- whole verdicts


def claim(stopping: Stopping, **given: Any) -> Claim:
    return Claim(
        **{"id": "c", "margin": 1.5, **given}, method="pcgrad", baseline=Baseline(best_of=("ls",)), stopping=stopping
    )


def study(one: Claim, effect: float, seeds: int = 12, **given: Any) -> Evidence:
    design = Design(effects={"ls": 0.0, "pcgrad": effect}, seeds=tuple(range(seeds)), noise=0.7, **given)
    return simulate(design, 3, [one])


def verdict(one: Claim, evidence: Evidence) -> Verdict:
    return judge_evidence(evidence, [one])[0]


def until(evidence: Evidence, seeds: int) -> Evidence:
    """The study when only its first seeds have run."""
    return replace(evidence, runs=tuple(r for r in evidence.runs if r.phase == "tune" or r.seed < seeds))


def test_a_decision_at_an_early_look_stands_whatever_comes_later() -> None:
    one = claim(LOOKS)
    whole = study(one, 2.5)
    early, late = verdict(one, until(whole, 5)), verdict(one, whole)
    assert (early.verdict, late.verdict) == ("supported", "supported")
    assert (early.effect, early.n_pairs) == (late.effect, late.n_pairs)
    assert late.detail["look"] == {**early.detail["look"], "unused_seeds": 7}
    assert ", look 1 of 3; " in late.sentence
    assert "Decided at look 1 of 3, after 5 seeds per dataset; later seeds do not change it." in late.sentence
    assert late.p_value <= early.p_value


def test_seeds_between_two_looks_are_not_looked_at() -> None:
    one = claim(LOOKS, margin=0.2)
    whole = study(one, 0.1)
    five, seven, eight = (verdict(one, until(whole, n)) for n in (5, 7, 8))
    assert five.verdict == seven.verdict == "inconclusive"
    assert (seven.p_value, seven.effect) == (five.p_value, five.effect)
    assert seven.detail["look"]["unused_seeds"] == 2
    assert eight.n_pairs == 16
    assert " The next look is at 8 seeds (now 5)." in seven.sentence
    assert " The next look is at 12 seeds (now 8)." in eight.sentence
    last = verdict(one, whole)
    assert (last.verdict, last.detail["look"]["number"]) == ("inconclusive", 3)
    assert "next look" not in last.sentence and "seeds per dataset would decide it" in last.sentence
    assert guard_names(verdict(one, until(whole, 4))) == ["complete_pairs"]


def guard_names(found: Verdict) -> list[str]:
    assert found.verdict == "invalid"
    return [g.partition(":")[0] for g in found.guards]


def test_a_first_look_too_small_to_decide_decides_nothing() -> None:
    """Five seeds on one dataset at alpha 0.01: the smallest p is 2^-5, whatever the effect."""
    one = claim(LOOKS, datasets=("digits",))
    found = verdict(one, until(study(one, 30.0), 5))
    assert found.verdict == "inconclusive"


def test_an_open_claim_may_be_judged_at_every_seed() -> None:
    one = claim(OPEN)
    whole = study(one, 2.5, seeds=14)
    answers = [verdict(one, until(whole, n)) for n in range(1, 15)]
    assert [a.n_pairs for a in answers] == [2 * n for n in range(1, 15)]
    assert answers[-1].p_value < 0.2 * answers[4].p_value
    assert answers[0].verdict == "inconclusive"
    assert answers[-1].verdict == "supported"
    assert f"e = {answers[-1].detail['e_value']:.0f}" in answers[-1].sentence
    assert answers[-1].ci_low <= answers[-1].effect <= answers[-1].ci_high
    assert "at no cost in error" in answers[0].sentence


@pytest.mark.parametrize("stopping", [LOOKS, OPEN], ids=["looks", "open"])
def test_exchanging_the_arms_mirrors_limits_and_effect(stopping: Stopping) -> None:
    one = claim(stopping, alternative="equivalence")  # symmetric, so both wordings stop at the same look
    other = replace(one, method="ls", baseline=Baseline(best_of=("pcgrad",)))
    evidence = study(one, 0.6)
    lock = replace(evidence.registrations[0], registration=other.registration(evidence.sha256))
    a, b = verdict(one, evidence), verdict(other, replace(evidence, registrations=(lock,)))
    assert a.effect == pytest.approx(-b.effect)
    assert a.detail["limits"] == pytest.approx([-x for x in b.detail["limits"][::-1]])
