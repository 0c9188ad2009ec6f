"""Claims about speed and cost, on curves small enough to be read by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from mtlfleet.plan.claims import Baseline, Claim, Estimand, claim_from
from mtlfleet.plan.tasks import METRICS
from mtlfleet_analysis.evidence import Evidence, Registration, Run, TaskFact
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.loading import from_store
from mtlfleet_analysis.pace import paced
from mtlfleet_analysis.preflight import preflight
from mtlfleet_analysis.report.queries import of_claim
from mtlfleet_analysis.simulation import BEFORE, STARTED
from mtlfleet_analysis.verdict import Verdict

READING = ("left", "accuracy")
QUICK = ((10.0, 0.5), (20.0, 0.85), (40.0, 0.9))
SLOW = ((5.0, 0.4), (10.0, 0.6), (20.0, 0.7), (30.0, 0.81))
Curve = tuple[tuple[float, float], ...]


def run(method: str, seed: int, curve: Curve, phase: Any = "final", **given: Any) -> Run:
    last = {("val", *READING): curve[-1][1], ("test", *READING): curve[-1][1]} if curve else {}
    facts = {"device_s": curve[-1][0] if curve else 0.0, "values": last, "curves": {READING: curve}}
    where: dict[str, Any] = {"dataset": "digits", "architecture": "hps", "started_at": STARTED}
    return Run(**{"trial": f"{method}{phase}{seed}", **facts, **where, **given}, method=method, seed=seed, phase=phase)


def claim(kind: Any, **given: Any) -> Claim:
    asked = {"target": 0.8} if kind == "time_to_target" else {"device_s": 25.0}
    estimand = Estimand(**{"kind": kind, "task": "left", "metric": "accuracy", **asked, **given.pop("asked", {})})
    margin = 5.0 if kind == "time_to_target" else 0.05
    base = {"id": "c", "method": "mto", "baseline": Baseline(best_of=("ls",)), "margin": margin}
    return Claim(**{**base, **given}, estimand=estimand)


def study(one: Claim, *others: Run, seeds: int = 6, mto: Curve = QUICK, ls: Curve = SLOW) -> Evidence:
    """Six seeds of two methods; ``others`` stand in for runs of the same name, or join them."""
    known = {r.trial: r for s in range(seeds) for r in (run("mto", s, mto), run("ls", s, ls))}
    runs = tuple({**known, **{r.trial: r for r in others}}.values())
    lock = Registration(claim_id="c", number=1, registration=one.registration("0"), registered_at=BEFORE)
    return Evidence(
        study="s", sha256="0", runs=runs, metrics=METRICS, datasets=("digits",), architectures=("hps",),
        tasks=(TaskFact(dataset="digits", task="left", primary="accuracy", chance=0.1),), methods=("mto", "ls"),
        seeds=tuple(range(seeds)), registrations=(lock,),
    )  # fmt: skip


def judged(one: Claim, *others: Run, **given: Any) -> Verdict:
    return judge_evidence(study(one, *others, **given), [one])[0]


def test_the_time_to_a_target_is_that_of_the_first_reading_which_reaches_it() -> None:
    found = judged(claim("time_to_target"))
    assert found.effect == 10.0  # 20 seconds against 30
    assert (found.verdict, found.unit) == ("supported", "device seconds")
    assert found.sentence.startswith("mto improves on ls in the time to left.accuracy 0.8 on validation by 10.0 device")
    assert found.sentence.endswith(" Nothing was tuned.")
    stated = found.detail["estimand"]
    assert (stated["target"], stated["published_better"], stated["effect_better"]) == (0.8, "lower", "higher")


@pytest.mark.parametrize(
    ("fate", "failures"),
    [({"curve": ((10.0, 0.5), (25.0, 0.79))}, 0), ({"curve": QUICK, "state": "diverged"}, 1),
     ({"curve": (), "state": "oom", "values": {}}, 1)],
)  # fmt: skip
def test_a_run_that_never_gets_there_counts_the_longest_run(fate: dict[str, Any], failures: int) -> None:
    found = judged(claim("time_to_target"), run("mto", 3, fate.pop("curve"), **fate))
    assert found.effect == pytest.approx((5 * 10 + (30 - 40)) / 6)
    assert found.detail["failures"]["method"] == failures


def test_where_lower_is_better_the_target_is_reached_from_above() -> None:
    one = claim("time_to_target", asked={"metric": "error", "target": 0.2})
    whole = study(one)
    curves = {r.trial: tuple((t, 1 - v) for t, v in r.curves[READING]) for r in whole.runs}
    turned = tuple(replace(r, curves={("left", "error"): curves[r.trial]}) for r in whole.runs)
    assert judge_evidence(replace(whole, runs=turned), [one])[0].effect == 10.0


@pytest.mark.parametrize(
    ("tuned", "effect"),
    [({}, 0.85 - 0.7), ({"ls": 12.0}, 0.85 - 0.6), ({"mto": 5.0}, 0.85 - 0.7), ({"mto": 6.0}, 0.5 - 0.7)],
)
def test_what_tuning_took_is_spent_before_the_run_starts(tuned: dict[str, float], effect: float) -> None:
    tuning = [run(m, 901, ((s, 0.1),), "tune") for m, s in tuned.items()]
    assert judged(claim("compute_matched", parity="waived", parity_reason="by hand"), *tuning).effect == pytest.approx(
        effect
    )


def test_an_arm_that_has_spent_everything_on_tuning_is_scored_worst() -> None:
    tuning = run("ls", 901, ((24.0, 0.1),), "tune")
    found = judged(claim("compute_matched", parity="waived", parity_reason="by hand"), tuning)
    assert found.effect == pytest.approx(0.85 - 0.1)  # chance is the worst there is
    assert found.detail["failures"]["baseline"] == 6
    assert " Not tuned: mto." in found.sentence
    assert "on validation after 25 device seconds with tuning" in found.sentence


def test_a_baseline_of_several_pays_for_tuning_them_all_and_is_chosen_by_what_is_compared() -> None:
    one = claim("compute_matched", baseline=Baseline(best_of=("ls", "mean")), parity="waived", parity_reason="by hand")
    early = tuple(run("mean", s, ((9.0, 0.65), (15.0, 0.9))) for s in range(6))
    tuning = [run(m, 901, c, "tune", device_s=7.0) for m, c in (("ls", SLOW), ("mean", early[0].curves[READING]))]
    found = judged(one, *early, *tuning, run("mto", 901, QUICK, "tune", device_s=5.0))
    assert found.detail["choices"][0]["baseline"] == "mean"  # 25 - 14 = 11 seconds: 0.65 against 0.6
    assert found.effect == pytest.approx(0.85 - 0.65)


def test_a_finished_run_without_a_curve_is_owed_and_no_score_is_made_up() -> None:
    for kind in ("time_to_target", "compute_matched"):
        found = judged(claim(kind), run("ls", 2, SLOW, curves={}))
        assert found.verdict == "invalid"
        assert any("ls/digits/hps/s2" in g for g in found.guards)


def test_other_alternatives_exchanged_arms_and_the_pilot() -> None:
    one = claim("time_to_target", alternative="equivalence", margin=12.0)
    assert judged(one).verdict == "supported"
    turned = claim("time_to_target", method="ls", baseline=Baseline(best_of=("mto",)))
    assert judged(turned).effect == -10.0
    noisy = [run("mto", s, tuple((t + s, v) for t, v in QUICK)) for s in range(6)]
    ahead = preflight(claim("time_to_target"), datasets=("digits",), architectures=1, seeds=6, family=1,
                      pilot=study(claim("time_to_target"), *noisy))  # fmt: skip
    assert ahead.noise == "6 pairs of this store"
    assert ahead.pair_sd == pytest.approx(math.sqrt(3.5))  # of 0 to 5


def test_a_claim_about_pace_survives_its_registration_and_older_ones_keep_their_hash() -> None:
    one = claim("time_to_target")
    assert claim_from(json.loads(json.dumps(one.to_dict()))) == one
    assert not {"target", "device_s"} & set(claim("metric", asked={"device_s": None}).to_dict()["estimand"])


def test_curves_come_from_the_store(stored: Any) -> None:
    evidence, store, asked = stored
    one = claim("time_to_target", method="pcgrad", asked={"metric": "error", "target": 0.5})
    read = from_store(replace(asked, claims=(one,)), store)
    assert all(r.curves == {} for r in from_store(asked, store).runs), "curves that no claim asks for are not read"
    run = next(r for r in read.phase("final") if r.method == "pcgrad")
    value = run.values["val", "left", "error"]
    assert run.curves == {("left", "error"): ((run.device_s * 5 / 10, pytest.approx(value + 1)),)}
    rows = store.sql(of_claim(asked.name, one).partition(";")[2]).to_pylist()
    found = {(r["trial_id"], r["device_s"]) for r in rows}
    assert (run.trial, run.device_s / 2) in found
    assert {r["trial_id"] for r in rows} <= {r.trial for r in evidence.runs}
    assert paced(read, one)[1].estimand == Estimand(kind="metric", task="left", metric="time_to_target")


@pytest.mark.parametrize("kind", ["time_to_target", "compute_matched"])
def test_seconds_of_different_devices_decide_nothing(kind: str) -> None:
    moved = run("ls", 0, SLOW, device="NVIDIA H200")
    here = [run(m, s, QUICK if m == "mto" else SLOW, device="AMD EPYC") for m in ("mto", "ls") for s in range(6)]
    assert judged(claim(kind), *here).verdict != "invalid"
    found = judged(claim(kind), *here, moved)
    assert found.verdict == "invalid"
    assert found.guards == ("same_device: seconds of different devices: AMD EPYC, NVIDIA H200",)
    resumed = run("ls", 0, SLOW, device="AMD EPYC, NVIDIA H200")
    assert judged(claim(kind), *here, resumed).verdict == "invalid"


def test_where_a_claim_is_not_about_seconds_devices_may_differ() -> None:
    one = claim("metric", asked={"task": "left", "metric": "accuracy", "target": None}, margin=0.01)
    moved = run("ls", 0, SLOW, device="NVIDIA H200")
    here = [run(m, s, QUICK if m == "mto" else SLOW, device="AMD EPYC") for m in ("mto", "ls") for s in range(6)]
    assert judged(one, *here, moved).verdict == judged(one, *here).verdict != "invalid"
