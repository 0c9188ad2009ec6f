"""Safety, resampled splits, follow-ups, amendments, exploratory claims and the guard on device time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mtlfleet.plan.claims import Baseline, Claim, Estimand, Splits, claim_from
from mtlfleet.plan.estimands import ESTIMANDS
from mtlfleet_analysis import corrected_t_test, sign_flip_test
from mtlfleet_analysis.evidence import Evidence, Registration, Run
from mtlfleet_analysis.intervals import resampled_mean
from mtlfleet_analysis.jointly import EveryPart
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.simulation import BEFORE, Design, simulate
from mtlfleet_analysis.verdict import Verdict


def claim(**given: Any) -> Claim:
    return Claim(**{"id": "c", "margin": 1.5, "method": "pcgrad", "baseline": Baseline(best_of=("ls",)), **given})


def study(claims: list[Claim], effect: float = 0.0, **given: Any) -> Evidence:
    return simulate(
        Design(**{"effects": {"ls": 0.0, "pcgrad": effect}, "seeds": tuple(range(8)), "noise": 0.7, **given}), 3, claims
    )


def verdict(one: Claim, evidence: Evidence) -> Verdict:
    return judge_evidence(evidence, [one])[0]


def hurt(evidence: Evidence, task: str, percent: float) -> Evidence:
    """The method's error on one task of one dataset, made worse."""
    runs = tuple(
        replace(
            r,
            values={
                k: v * (1 + percent / 100) if k[1] == task and r.dataset == "digits" else v for k, v in r.values.items()
            },
        )
        if r.method == "pcgrad"
        else r
        for r in evidence.runs
    )
    return replace(evidence, runs=runs)


CLAIMABLE: dict[str, dict[str, Any]] = {
    "delta_m": {},
    "delta_p": {},
    "delta_task": {"estimand": Estimand(kind="delta_task", task="left", metric="error")},
    "metric": {"estimand": Estimand(kind="metric", task="left", metric="error"), "margin": 0.005},
    "every_task": {"alternative": "non_inferiority"},
    "front_pref": {"baseline": Baseline(best_of=("ls-2", "ls-5", "ls-8"), sweep=True)},
    "compute_matched": {
        "estimand": Estimand(kind="compute_matched", task="left", metric="error", device_s=8.0), "margin": 0.005,
    },
    "time_to_target": {
        "estimand": Estimand(kind="time_to_target", task="left", metric="error", target=0.6), "margin": 0.1,
    },
}  # fmt: skip


def with_curves(evidence: Evidence) -> Evidence:
    """Each final run comes down to its error on the left task in ten device seconds."""

    def of(run: Run) -> Run:
        last = run.values.get(("val", "left", "error"), math.nan)
        curve = tuple((t / 20, last * (3 - t / 100)) for t in range(1, 201))
        return replace(run, device_s=10.0 if run.phase == "final" else 0.0, curves={("left", "error"): curve})

    return replace(evidence, runs=tuple(map(of, evidence.runs)))


@pytest.mark.parametrize("kind", [k for k, facts in ESTIMANDS.items() if not facts.refused])
def test_every_kind_that_is_not_refused_is_judged(kind: str) -> None:
    """The others are refused where the study is read, each with its reason: tests/unit/plan/test_mistakes.py."""
    one = claim(**{"estimand": Estimand(kind=kind), **CLAIMABLE[kind]})  # type: ignore[arg-type]
    sweep = {"ls-2": 0.2, "ls-5": 0.5, "ls-8": 0.8}
    evidence = with_curves(study([one], effects={"ls": 0.0, "pcgrad": 5.0, **dict.fromkeys(sweep, 0.0)}, sweep=sweep))
    found = verdict(one, evidence)
    assert found.verdict == "supported"
    assert found.ci_low < found.effect < found.ci_high
    stated = found.detail["estimand"]
    assert (stated["kind"], stated["effect_better"]) == (kind, "higher")
    assert stated["unit"]
    assert stated["convention"] == ESTIMANDS[kind].convention


# --- safety

SAFE = {"estimand": Estimand(kind="every_task"), "alternative": "non_inferiority"}


def test_safety_is_asked_of_every_task_and_one_harmed_task_refutes_it() -> None:
    one = claim(**SAFE, margin=3.0)
    evidence = study([one], 0.5)
    safe = verdict(one, evidence)
    assert safe.verdict == "supported"
    assert [row["task"] for row in safe.detail["tasks"]] == ["digits.left", "digits.right", "waves.left", "waves.right"]
    harmed = verdict(one, hurt(evidence, "left", 8.0))
    assert harmed.title == "refuted (worse)"
    assert harmed.detail["worst_task"] == "digits.left"
    assert harmed.effect < -5
    assert "Unsafe" in harmed.sentence
    average = claim(id="avg", estimand=Estimand(kind="delta_p"), alternative="non_inferiority", margin=3.0)
    locked = study([average], 0.5)
    assert verdict(average, hurt(locked, "left", 8.0)).verdict == "supported", "an average hides the harmed task"


def test_safety_with_too_little_evidence_is_not_shown_either_way() -> None:
    one = claim(**SAFE, margin=0.1)
    assert verdict(one, study([one], 0.0, seeds=(0, 1, 2, 3, 4))).verdict == "inconclusive"


def test_safety_errs_at_most_at_its_level_when_one_task_sits_at_the_margin() -> None:
    rng, studies = np.random.default_rng(6), 600
    wrong = {"safe": 0, "unsafe": 0}
    for _ in range(studies):
        parts = tuple(_Flip(rng.standard_t(5, 8) + shift) for shift in (-1.0, 3.0, 3.0))
        wrong["safe"] += EveryPart(parts).above(-1.0) <= 0.05
        level = tuple(_Flip(rng.standard_t(5, 8) - 1.0) for _ in range(3))
        wrong["unsafe"] += EveryPart(level).below(-1.0) <= 0.05
    limit = float(stats.binom.ppf(0.999, studies, 0.05))
    assert 0 < wrong["safe"] <= limit
    assert wrong["unsafe"] <= limit


class _Flip:
    def __init__(self, d: np.ndarray) -> None:
        self.d = d

    def above(self, theta: float) -> float:
        return sign_flip_test(self.d - theta, alternative="greater").p_value

    def below(self, theta: float) -> float:
        return sign_flip_test(self.d - theta, alternative="less").p_value

    def limits(self, alpha: float) -> tuple[float, float]:
        raise NotImplementedError


# --- resampled splits


def test_resampled_splits_are_judged_by_the_corrected_t() -> None:
    splits = tuple(f"split{i}" for i in range(10))
    one = claim(splits=Splits(kind="resampled", test_fraction=0.2))
    found = verdict(one, study([one], 1.0, datasets=splits, seeds=(0, 1)))
    effects = np.array(list(found.detail["effects"].values()))
    expected = corrected_t_test(effects, 0.2, "greater")
    assert found.p_value == pytest.approx(expected.p_value)
    mean = resampled_mean(effects, 0.2)
    assert (found.ci_low, found.ci_high) == pytest.approx(mean.interval(0.95))
    plain = verdict(claim(), study([claim()], 1.0, datasets=splits, seeds=(0, 1)))
    assert plain.p_value < found.p_value


def test_overlapping_splits_fool_the_sign_flip_and_not_the_correction() -> None:
    """Ten random halves of one sample of differences: the same data come back in every split."""
    rng, studies = np.random.default_rng(7), 400
    naive = corrected = 0
    for _ in range(studies):
        sample = rng.standard_normal(40)
        means = np.array([sample[rng.choice(40, 8, replace=False)].mean() for _ in range(10)])
        means += sample.mean()  # what the models share: trained on almost the same data
        naive += sign_flip_test(means, alternative="greater").p_value <= 0.05
        corrected += resampled_mean(means, 0.2).above(0.0) <= 0.05
    assert naive / studies > 0.2
    assert corrected < naive / 1.5


# --- follow-ups


def test_tasks_are_looked_at_only_behind_a_supported_average() -> None:
    one = claim(margin=1.0)
    evidence = study([one], 4.0, noise=0.4)
    mixed = verdict(one, hurt(evidence, "left", 4.0))
    rows = {row["task"]: row for row in mixed.detail["follow_ups"]}
    assert mixed.verdict == "supported"
    assert set(rows) == {"digits.left", "digits.right", "waves.left", "waves.right"}
    assert rows["waves.left"]["supported"]
    assert not rows["digits.left"]["supported"]
    assert all(row["p_adjusted"] >= row["p"] for row in rows.values())
    assert "waves.left" in mixed.sentence
    assert "digits.left," not in mixed.sentence
    shut = verdict(one, study([one], 0.0))
    assert shut.detail["follow_ups"] == []


# --- registration


def test_an_amended_claim_says_so_and_keeps_its_standing_if_it_came_in_time() -> None:
    old, new = claim(margin=0.5), claim(margin=1.5)
    evidence = study([new], 4.0)
    first = Registration(
        claim_id="c",
        number=1,
        registration=old.registration(evidence.sha256),
        registered_at="2025-12-31T00:00+00:00",
    )
    second = Registration(claim_id="c", number=2, registration=new.registration(evidence.sha256), registered_at=BEFORE)
    in_time = verdict(new, replace(evidence, registrations=(first, second)))
    assert in_time.verdict == "supported"
    assert [(a["number"], a["runs"]) for a in in_time.detail["amended"]] == [(1, 0)]
    assert "locked @1 was replaced after 0 final runs" in in_time.sentence
    after = replace(second, registered_at="2026-03-01T00:00:00+00:00")
    late = verdict(new, replace(evidence, registrations=(first, after)))
    assert (late.verdict, late.detail["amended"][0]["runs"]) == ("observed", 32)
    same = replace(second, registration=first.registration)
    assert verdict(old, replace(evidence, registrations=(first, same))).detail["amended"] == []


def test_an_exploratory_claim_can_only_be_observed_and_leaves_the_others_alone() -> None:
    tested, looked = claim(id="tested"), claim(id="looked", exploratory=True)
    evidence = study([tested, looked], 4.0)
    first, second = judge_evidence(evidence, [tested, looked])
    assert (first.verdict, second.title) == ("supported", "observed (better)")
    assert (first.detail["family_size"], second.detail["family_size"]) == (1, 1)
    assert first.p_adjusted == first.p_value
    assert second.detail["standing"]["status"] == "exploratory"


def test_claims_come_back_from_json_as_they_were() -> None:
    import json

    from mtlfleet.plan.claims import Stopping

    fancy = claim(
        estimand=Estimand(kind="front_pref", preferences=((("a", 0.5), ("b", 0.5)),), eps=0.2),
        baseline=Baseline(best_of=("x", "y"), sweep=True),
        stopping=Stopping(kind="group_sequential", looks=(5, 10), alpha=(0.02, 0.03)),
        splits=Splits(kind="disjoint"),
        compute_tolerance=0.1,
    )
    for one in (fancy, claim()):
        assert claim_from(json.loads(json.dumps(one.to_dict()))) == one
    old = {k: v for k, v in claim().to_dict().items() if k not in ("use", "stopping", "splits", "correction")}
    assert claim_from(json.loads(json.dumps(old))) == claim()


# --- device time


def test_device_time_is_compared_only_where_a_tolerance_is_declared() -> None:
    """The simulated method costs twice what the baseline does."""
    strict, loose = claim(compute_tolerance=0.05), claim(compute_tolerance=1.01)
    found = verdict(strict, study([strict]))
    assert found.verdict == "invalid"
    assert found.guards == ("equal_compute: device time differs by more than 0.05: ls x 2.00",)
    assert verdict(loose, study([loose])).verdict != "invalid"
    assert verdict(claim(), study([claim()])).verdict != "invalid"


def test_one_tasks_percent_change_and_its_win_rate() -> None:
    one = claim(estimand=Estimand(kind="delta_task", task="left", metric="error"), margin=1.0)
    evidence = study([one], 0.0)
    assert verdict(one, evidence).effect == pytest.approx(0.0, abs=1.0)
    harmed = verdict(one, hurt(evidence, "left", 6.0))
    assert harmed.effect == pytest.approx(-3.0, abs=1.0)  # on one of two datasets
    right = claim(estimand=Estimand(kind="delta_task", task="right", metric="error"), margin=1.0)
    untouched = study([right], 0.0)
    assert verdict(right, untouched).effect == verdict(right, hurt(untouched, "left", 6.0)).effect
    ahead = np.array([p[3] > p[4] for p in harmed.detail["pairs"]])
    assert harmed.detail["win_rate"] == ahead.mean()
    assert harmed.detail["estimand"]["effect_better"] == "higher"
    assert harmed.detail["estimand"]["unit"] == "percentage points"
