"""Judging on simulated studies whose truth is known: every verdict, every guard, and what must not change it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtlfleet.plan.claims import Baseline, Claim, Estimand
from mtlfleet_analysis.evidence import Evidence, Registration, Run
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.pairing import choose_baseline, pair, swapped
from mtlfleet_analysis.report.cards import card
from mtlfleet_analysis.scoring import outcomes, scale_of, score
from mtlfleet_analysis.simulation import STARTED, Design, simulate
from mtlfleet_analysis.verdict import Verdict


def claim(method: str = "pcgrad", *baselines: str, **given: Any) -> Claim:
    best_of = baselines or ("ls",)
    return Claim(**{"id": "c", "margin": 1.0, **given}, method=method, baseline=Baseline(best_of=best_of))


def study(claims: list[Claim] | None = None, seed: int = 0, **given: Any) -> Evidence:
    design = Design(**{"effects": {"ls": 0.0, "pcgrad": 0.0}, "seeds": tuple(range(6)), **given})
    return simulate(design, seed, claims if claims is not None else [claim()])


def verdict(one: Claim, evidence: Evidence) -> Verdict:
    return judge_evidence(evidence, [one])[0]


def changed(evidence: Evidence, which: Any, **to: Any) -> Evidence:
    return replace(evidence, runs=tuple(replace(r, **to) if which(r) else r for r in evidence.runs))


def is_final(method: str, seed: int | None = None) -> Any:
    return lambda r: r.phase == "final" and r.method == method and seed in (None, r.seed)


# --- the verdict table


@pytest.mark.parametrize(
    ("alternative", "effect", "margin", "expected"),
    [
        ("superiority", 4.0, 1.0, "supported"),
        ("superiority", 1.5, 6.0, "supported (negligible)"),
        ("superiority", 0.0, 6.0, "refuted (equivalent)"),
        ("superiority", -4.0, 1.0, "refuted (worse)"),
        ("superiority", 0.15, 0.2, "inconclusive"),
        ("non_inferiority", 0.0, 4.0, "supported (equivalent)"),
        ("non_inferiority", 6.0, 1.0, "supported"),
        ("non_inferiority", -6.0, 1.0, "refuted (worse)"),
        ("equivalence", 0.0, 4.0, "supported (equivalent)"),
        ("equivalence", 6.0, 1.0, "refuted (better)"),
        ("equivalence", -6.0, 1.0, "refuted (worse)"),
        ("equivalence", 0.0, 0.05, "inconclusive"),
        ("no_better_than", -6.0, 1.0, "supported (worse)"),
        ("no_better_than", 0.0, 4.0, "supported (equivalent)"),
        ("no_better_than", 6.0, 1.0, "refuted (better)"),
    ],
)
@pytest.mark.parametrize("scope", ["these_datasets", "datasets_like_these"])
def test_every_row_of_the_verdict_table(
    alternative: Any, effect: float, margin: float, expected: str, scope: Any
) -> None:
    one = claim(alternative=alternative, margin=margin, scope=scope)
    datasets = tuple("abcdef")
    found = verdict(one, study([one], effects={"ls": 0.0, "pcgrad": effect}, datasets=datasets, noise=0.7))
    assert found.title == expected, found.sentence
    assert found.ci_low <= found.effect <= found.ci_high
    assert found.effect == pytest.approx(effect, abs=1.0)
    assert found.sentence.count("pcgrad") >= 1
    assert (found.n_pairs, found.n_datasets) == (36, 6)


def test_effects_are_improvements_for_metrics_of_either_direction() -> None:
    for metric in ("error", "accuracy"):
        one = claim(estimand=Estimand(kind="metric", task="left", metric=metric), margin=0.001)
        evidence = study([one], metric=metric, effects={"ls": 0.0, "pcgrad": 5.0})
        found = verdict(one, evidence)
        # the simulation lowers every reading of a better method: good for errors, bad for accuracies
        assert (found.verdict, found.effect > 0) == (("supported", True) if metric == "error" else ("refuted", False))


def test_holm_counts_the_family_and_invalid_members_stay_in_it() -> None:
    claims = [
        claim("pcgrad", id="a"),
        claim("mgda", id="b"),
        claim("famo", id="c"),
        claim("famo", id="alone", family="other"),
    ]
    effects = {"ls": 0.0, "pcgrad": 3.0, "mgda": 0.4, "famo": 0.0}
    evidence = study(claims, effects=effects)
    found = {v.claim_id: v for v in judge_evidence(evidence, claims)}
    assert found["a"].p_adjusted == pytest.approx(3 * found["a"].p_value)
    assert found["alone"].p_adjusted == found["alone"].p_value
    holed = changed(evidence, is_final("mgda", 2), state="lost", values={})
    again = {v.claim_id: v for v in judge_evidence(holed, claims)}
    assert again["b"].verdict == "invalid"
    assert again["a"].p_adjusted == found["a"].p_adjusted


def test_population_scope_asks_the_datasets_not_the_seeds() -> None:
    """An effect that differs between datasets: many seeds make the fixed claim sure, not the claim about others."""
    here, beyond = claim(id="here", family="a"), claim(id="beyond", family="b", scope="datasets_like_these")
    evidence = study(
        [here, beyond], seed=3, datasets=("a", "b", "c"), between=6.0, noise=0.3, effects={"ls": 0.0, "pcgrad": 2.0}
    )
    fixed, population = judge_evidence(evidence, [here, beyond])
    assert fixed.effect == pytest.approx(population.effect)
    assert population.ci_high - population.ci_low > 3 * (fixed.ci_high - fixed.ci_low)


# --- guards


def test_variants_of_one_dataset_are_one_observation() -> None:
    names = ("a-1", "a-2", "a-3", "b", "c")
    one = claim(scope="datasets_like_these")
    kin = replace(one, dataset_families=(("a-1", "a"), ("a-2", "a"), ("a-3", "a")))
    evidence = study([one, kin], datasets=names, effects={"ls": 0.0, "pcgrad": 3.0})
    apart, together = verdict(one, evidence), verdict(kin, evidence)
    means = together.detail["effects"]
    counted = [float(np.mean([means[n] for n in names[:3]])), means["b"], means["c"]]
    se = float(np.std(counted, ddof=1)) / math.sqrt(3)
    assert together.effect == pytest.approx(np.mean(counted))
    assert together.p_value == pytest.approx(float(stats.t.sf(np.mean(counted) / se, 2)))
    assert together.n_datasets == 5 and "5 datasets (3 families)" in together.sentence
    assert {r["analysis"] for r in together.detail["sensitivity"]} >= {"without a", "without b"}
    assert apart.effect == pytest.approx(np.mean(list(means.values()))) and "famil" not in apart.sentence
    alone = replace(kin, datasets=names[:3])
    assert "one family" in verdict(alone, study([alone], datasets=names)).guards[0]


def guard_of(found: Verdict) -> list[str]:
    assert found.verdict == "invalid"
    assert found.effect is found.p_value is None
    return [g.partition(":")[0] for g in found.guards]


def test_incomplete_pairs_make_a_claim_invalid() -> None:
    for state in ("missing", "running", "lost", "interrupted", "failed"):
        holed = changed(study(), is_final("ls", 1), state=state, values={})
        found = verdict(claim(), holed)
        assert guard_of(found) == ["complete_pairs"]
        assert "10 of 12 pairs" in found.guards[0]
        assert f"({state})" in found.guards[0]


def test_different_seeds_are_refused() -> None:
    moved = changed(study(), is_final("ls", 1), seed=77)
    assert "same_seeds" in guard_of(verdict(claim(), moved))


def test_unequal_tuning_is_invalid_unless_waived() -> None:
    more = study(configs=3)
    extra = [
        replace(r, trial=f"x{i}", config_index=9)
        for i, r in enumerate(more.runs)
        if r.phase == "tune" and r.method == "pcgrad"
    ]
    uneven = replace(more, runs=(*more.runs, *extra))
    assert guard_of(verdict(claim(), uneven)) == ["equal_tuning"]
    waived = claim(parity="waived", parity_reason="the baseline has nothing to tune")
    registered = Registration(
        claim_id="c", number=1, registration=waived.registration(more.sha256), registered_at="2026-01-01"
    )
    found = verdict(waived, replace(uneven, registrations=(registered,)))
    assert found.verdict != "invalid"
    assert "nothing to tune" in found.sentence


def test_tuning_that_never_started_is_not_counted() -> None:
    unstarted = changed(study(), lambda r: r.phase == "tune" and r.method == "pcgrad" and r.seed == 901, attempts=0)
    assert guard_of(verdict(claim(), unstarted)) == ["equal_tuning"]


def test_tuning_seeds_are_no_evidence() -> None:
    assert guard_of(verdict(claim(), study(tuning_seeds=(0, 1)))) == ["tuning_seeds_disjoint"]


def test_stl_must_be_in_the_study_and_finished() -> None:
    evidence = study()
    without = replace(evidence, runs=tuple(r for r in evidence.runs if r.method != "stl"), single_task=())
    assert "stl_in_study" in guard_of(verdict(claim(), without))
    unfinished = changed(evidence, is_final("stl", 3), state="running", values={})
    assert guard_of(verdict(claim(), unfinished)) == ["stl_in_study"]
    metric = claim(estimand=Estimand(kind="metric", task="left", metric="error"))
    assert verdict(metric, without).verdict != "invalid"


def test_a_budget_of_steps_is_no_budget_for_a_method_that_draws_three_batches() -> None:
    by_steps = changed(study(), lambda r: True, budget="steps")
    assert verdict(claim(), by_steps).verdict != "invalid"
    more = changed(by_steps, is_final("pcgrad"), batches=3)
    found = verdict(claim(), more)
    assert guard_of(found) == ["equal_samples"]
    assert "ls 1, pcgrad 3" in found.guards[0]
    assert verdict(claim(parity="waived"), more).verdict != "invalid"
    by_samples = changed(study(), is_final("pcgrad"), batches=3)
    assert verdict(claim(), by_samples).verdict != "invalid"


def test_test_is_read_once_and_never_while_tuning() -> None:
    assert guard_of(verdict(claim(), changed(study(), is_final("ls", 0), test_reads=2))) == ["test_read_once"]
    peeked = changed(study(), lambda r: r.phase == "tune" and r.method == "ls", test_reads=1)
    assert guard_of(verdict(claim(), peeked)) == ["test_read_once"]


def test_one_dataset_says_nothing_about_others() -> None:
    one = claim(scope="datasets_like_these")
    assert guard_of(verdict(one, study([one], datasets=("a",)))) == ["scope"]


def test_registration_decides_between_a_verdict_and_an_observation() -> None:
    effects = {"ls": 0.0, "pcgrad": 4.0}
    assert verdict(claim(), study([claim()], effects=effects)).verdict == "supported"
    unlocked = verdict(claim(), study([], effects=effects))
    assert (unlocked.title, unlocked.detail["standing"]["status"]) == ("observed (better)", "missing")
    later = Registration(
        claim_id="c", number=1, registration=claim().registration(study().sha256), registered_at=STARTED
    )
    late = verdict(claim(), replace(study([], effects=effects), registrations=(later,)))
    assert (late.verdict, late.detail["standing"]["status"]) == ("observed", "late")
    edited = verdict(claim(margin=0.1), study([claim()], effects=effects))
    assert (edited.verdict, edited.detail["standing"]["status"]) == ("observed", "changed")
    assert unlocked.detail["would_be"] == "supported"


def test_a_reading_below_a_true_zero_needs_a_reference() -> None:
    zero = changed(study(), is_final("stl"), values={("test", "left", "error"): 0.0, ("test", "right", "error"): 0.0})
    assert "stl_in_study" in guard_of(verdict(claim(), zero))


# --- failures


def test_a_diverged_run_is_an_outcome_scored_worst() -> None:
    fates = {("pcgrad", "digits", 2): "diverged"}
    evidence = study(fates=fates)
    found = pair(evidence, claim()).pairs
    assert len(found) == 12
    bad = next(p for p in found if p.imputed)
    assert (bad.dataset, bad.seed, bad.method_imputed, bad.baseline_imputed) == ("digits", 2, True, False)
    assert bad.method <= min(min(p.method, p.baseline) for p in found if p.dataset == "digits")
    # chance (0.9) is worse than anything that was observed
    scale = scale_of(evidence, evidence.phase("final"), "digits", "test")
    assert set(scale.worst.values()) == {0.9}
    got = verdict(claim(), evidence)
    assert got.detail["failures"] == {"method": 1, "baseline": 0}
    assert "scored worst" in got.sentence
    assert any(row["analysis"] == "complete cases only" for row in got.detail["sensitivity"])


def test_both_arms_diverging_is_a_tie_not_a_gap() -> None:
    fates = {("pcgrad", "digits", 2): "diverged", ("ls", "digits", 2): "oom"}
    bad = next(p for p in pair(study(fates=fates), claim()).pairs if p.imputed)
    assert bad.difference == 0.0


def test_a_reading_that_is_not_finite_is_scored_worst_in_a_finished_run() -> None:
    evidence = changed(
        study(),
        is_final("pcgrad", 0),
        values={("test", "left", "error"): math.nan, ("test", "right", "error"): 0.2},
    )
    assert sum(p.method_imputed for p in pair(evidence, claim()).pairs) == 2


def test_dropping_failures_would_have_been_wrong() -> None:
    """The worst third of one arm diverges: complete cases call it better, the protocol does not."""
    fates = {("pcgrad", d, s): "diverged" for d in ("digits", "waves") for s in (0, 1)}
    found = verdict(claim(), study(fates=fates))
    assert found.verdict in ("refuted", "inconclusive")
    assert found.effect < 0


def test_failures_that_are_left_out_are_tagged_and_fragile_where_it_matters() -> None:
    fates = {("pcgrad", d, s): "diverged" for d in ("digits", "waves") for s in (0, 1)}
    one = claim(failures="exclude", failures_reason="the power went")
    evidence = study([one], fates=fates, effects={"ls": 0.0, "pcgrad": 3.0}, seeds=tuple(range(8)))
    found = verdict(one, evidence)
    assert (found.n_pairs, found.verdict, found.fragile) == (12, "supported", True)
    assert found.title.endswith("[failures excluded]")
    assert found.to_row()["detail"]["tags"] == ["failures excluded"]
    assert found.detail["failures"] == {"method": 4, "baseline": 0} and found.detail["excluded"]["pairs"] == 4
    assert "left out with their pairs: 4 of the method, 0 of the baseline (the power went)" in found.sentence
    assert "another verdict from: failed runs scored worst" in found.sentence.lower()
    assert "the power went" in str(card(evidence, found, 0))
    gone = {("pcgrad", "digits", s): "diverged" for s in range(8)}
    emptied = verdict(one, study([one], fates=gone, seeds=tuple(range(8))))
    assert emptied.verdict == "invalid" and "left out at digits/" in emptied.guards[0]


# --- baselines


def test_the_baseline_is_chosen_on_validation_and_never_sees_test() -> None:
    one = claim("pcgrad", "ls", "mean")
    evidence = study([one], effects={"ls": 0.0, "mean": 5.0, "pcgrad": 5.0}, configs=3)
    assert {c.baseline for c in pair(evidence, one).choices} == {"mean"}
    # swap the two baselines' test numbers: the choice must not move
    flipped = changed(evidence, lambda r: r.phase == "final" and r.method in ("ls", "mean"), values={})
    for place in (("digits", "hps"), ("waves", "hps")):
        assert choose_baseline(flipped, one, place) == choose_baseline(evidence, one, place)


def test_several_baselines_without_tuning_runs_cannot_be_chosen_from() -> None:
    one = claim("pcgrad", "ls", "mean")
    evidence = study([one], effects={"ls": 0.0, "mean": 1.0, "pcgrad": 5.0})
    untuned = replace(evidence, runs=evidence.phase("final"))
    assert "baseline_chosen_on_validation" in guard_of(verdict(one, untuned))
    assert verdict(claim(), replace(study(), runs=study().phase("final"))).verdict != "invalid"


def test_stl_itself_can_be_the_baseline_joined_over_its_tasks() -> None:
    one = claim("pcgrad", "stl")
    found = verdict(one, study([one], effects={"pcgrad": 4.0}))
    assert found.verdict == "supported"
    assert found.n_pairs == 12


# --- what must not change a verdict


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_row_order_changes_no_byte(seed: int) -> None:
    claims = [claim(id="a"), claim(id="b", scope="datasets_like_these", alternative="equivalence")]
    evidence = study(claims, fates={("ls", "waves", 1): "diverged"})
    rows = list(evidence.runs)
    random.Random(seed).shuffle(rows)
    shuffled = replace(evidence, runs=tuple(rows), tasks=evidence.tasks[::-1])
    first, second = ([v.to_json() for v in judge_evidence(e, claims)] for e in (evidence, shuffled))
    assert first == second


@pytest.mark.parametrize("effect", [-3.0, 0.0, 0.7, 3.0])
def test_exchanging_method_and_baseline_mirrors_the_verdict(effect: float) -> None:
    one = claim()
    other = swapped(one)
    evidence = study([one], effects={"ls": 0.0, "pcgrad": effect}, seeds=tuple(range(5)))
    other_locked = replace(
        evidence,
        registrations=(replace(evidence.registrations[0], registration=other.registration(evidence.sha256)),),
    )
    a, b = verdict(one, evidence), verdict(other, other_locked)
    assert a.effect == pytest.approx(-b.effect)
    assert (a.ci_low, a.ci_high) == pytest.approx((-b.ci_high, -b.ci_low))
    assert a.detail["limits"] == pytest.approx([-x for x in b.detail["limits"][::-1]])
    assert a.power == pytest.approx(b.power)
    if a.verdict == "supported":
        assert b.verdict == "refuted"


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_a_change_of_unit_leaves_percent_and_p_unchanged(factor: float) -> None:
    """Every reading of every run times c > 0: the same delta_m, the same p, also with a failure scored worst."""
    fates = {("ls", "waves", 1): "diverged"}
    plain, scaled = (verdict(claim(), study(fates=fates, scale=c)) for c in (1.0, factor))
    assert scaled.effect == pytest.approx(plain.effect)
    assert scaled.p_value == plain.p_value
    assert (scaled.title, scaled.fragile) == (plain.title, plain.fragile)


def test_delta_m_and_delta_p_agree_for_one_metric_a_task() -> None:
    flat, per_task = (claim(estimand=Estimand(kind=kind)) for kind in ("delta_m", "delta_p"))
    evidence = study()
    joined = outcomes(evidence.phase("final"), "test")
    scale = scale_of(evidence, evidence.phase("final"), "digits", "test")
    outcome = joined["pcgrad", "digits", "hps", 0]
    values = [score(outcome, scale, "hps", c.estimand, evidence) for c in (flat, per_task)]
    assert values[0].value == pytest.approx(values[1].value)


# --- what is printed


def test_an_inconclusive_verdict_says_what_would_decide_it() -> None:
    one = claim(margin=0.5)
    found = verdict(one, study([one], seeds=(0, 1, 2)))
    assert found.verdict == "inconclusive"
    assert found.seeds_needed > 3
    assert f"About {found.seeds_needed} seeds" in found.sentence
    powers = []
    for seed in range(7):
        few = verdict(one, study([one], seed, seeds=tuple(range(4))))
        more = verdict(one, study([one], seed, seeds=tuple(range(few.seeds_needed or 4))))
        powers.append(more.power)
    assert 0.65 < np.median(powers) < 0.97


def test_three_pairs_can_never_reject() -> None:
    one = claim()
    found = verdict(one, study([one], effects={"ls": 0.0, "pcgrad": 9.0}, datasets=("a",), seeds=(0, 1, 2)))
    assert found.p_value == 0.125
    assert found.verdict == "inconclusive"
    assert found.power == 0.0


def test_one_seed_a_dataset_has_no_interval_and_no_power() -> None:
    one = claim()
    found = verdict(one, study([one], seeds=(0,), datasets=tuple("abcdefg"), effects={"ls": 0.0, "pcgrad": 9.0}))
    assert found.verdict == "supported"
    assert (found.to_row()["ci_low"], found.power) == (None, None)


def test_a_row_has_the_columns_of_the_table() -> None:
    from mtlfleet.store.schema import DOCUMENT_TABLES

    row = verdict(claim(), study()).to_row()
    assert {"study_id", *row} == set(DOCUMENT_TABLES["verdicts"].names)
    assert row["detail"]["guards_checked"]


def test_runs_sort_by_what_they_are() -> None:
    run = Run(trial="t", phase="final", method="m", dataset="d", architecture="a", seed=1)
    assert run.order[:4] == ("final", "d", "a", "m")
