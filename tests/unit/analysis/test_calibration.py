"""Studies in which nothing is true: how often does the judging say otherwise? And is bad practice noticed?

A short form of ``benchmarks/calibration.py``: the same experiments and limits, widened by 3.1 standard errors of these
fewer studies. A negative control must break its limit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mtlfleet_analysis.calibration import Noise, experiments, fit
from mtlfleet_analysis.calibration.findings import Finding, Measure, widened
from mtlfleet_analysis.calibration.studies import worst_diverge
from mtlfleet_analysis.simulation import Design, simulate

STUDIES, WHOLE, CHANGED = 600, 120, 5
CORE = [e for e in experiments() if e.core]


@cache
def short(index: int) -> list[Finding]:
    experiment = CORE[index]
    studies = STUDIES if experiment.most is None else WHOLE if experiment.most > 60 else CHANGED
    return experiment.findings(Noise(), studies, 7)


@pytest.mark.parametrize("index", range(len(CORE)), ids=[f"{e.goal}-{e.cell}" for e in CORE])
def test_rules_keep_their_limits_and_common_practices_do_not(index: int) -> None:
    found = short(index)
    wrong = [f"{f.what} ({f.cell}): {f.found:.4f}, limit {f.limit:.4f}" for f in found if not f.fine]
    assert not wrong


def test_every_goal_has_an_experiment_and_a_short_one() -> None:
    goals = {f"G{i}" for i in range(1, 15)} - {"G11"}  # G11: published values, in tests/golden
    assert {e.goal for e in experiments()} == goals
    assert {e.goal for e in CORE} == goals


def test_every_error_goal_meets_controls_that_break_it() -> None:
    controls = [f for i, e in enumerate(CORE) if e.goal in ("G8", "G14") for f in short(i) if f.control]
    assert len(controls) >= 9
    assert all(f.found > f.limit for f in controls)


def test_the_harness_fails_a_rule_that_is_wrong_and_a_control_that_is_right() -> None:
    rng = np.random.default_rng(1)
    at = Measure(goal="G1", cell="", studies=2000)
    honest, broken = list(rng.random(2000) < 0.045), list(rng.random(2000) < 0.09)
    assert at.error("", honest).fine
    assert not at.error("", broken).fine
    assert at.error("", broken, control=True).fine
    assert not at.error("", honest, control=True).fine
    assert not at.coverage("", list(rng.random(2000) < 0.92)).fine


def test_limits_widen_only_where_studies_are_few() -> None:
    assert widened(0.0597, 0.05, 2000, at_most=True) == 0.0597
    assert widened(0.0597, 0.05, 200, at_most=True) == pytest.approx(0.05 + 3.1 * (0.05 * 0.95 / 200) ** 0.5)
    assert widened(0.94, 0.95, 200, at_most=False) < 0.94


def test_noise_has_the_shares_it_names_and_fit_finds_them_again() -> None:
    noise = Noise(rho=0.4, dataset_spread=0.0)
    runs = noise.runs(np.random.default_rng(3), 4000, 2, 1, 2)
    assert runs[:, 0, 0, 0].var() == pytest.approx(1.0, abs=0.1)
    assert np.cov(runs[:, 0, 0, 0], runs[:, 1, 0, 0])[0, 1] == pytest.approx(0.4, abs=0.06)
    assert np.cov(runs[:, 0, 0, 0], runs[:, 0, 0, 1])[0, 1] == pytest.approx(0.0, abs=0.06)
    design = Design(
        effects={"a": 0.0, "b": 1.0, "c": -1.0},
        datasets=tuple("pqrstuvw"),
        seeds=tuple(range(30)),
        tuning_seeds=(901,),
        shared=0.5,
        noise=2.0,
    )
    found = fit(simulate(design, 0))
    assert (found.methods, found.seeds) == (3, 30)
    assert found.tau < 0.2
    assert np.mean(list(found.sd.values())) == pytest.approx(2.0, rel=0.15)
    assert found.rho == pytest.approx(0.5 / 1.18, abs=0.1)  # the tasks' own noise is 0.18 of a run's variance
    spread = fit(simulate(replace(design, between=4.0), 0))
    assert spread.tau == pytest.approx(4.0 * 2**0.5 / 2.0, rel=0.4)


def test_a_store_without_shared_seeds_has_no_noise_to_fit() -> None:
    with pytest.raises(ValueError, match="two methods"):
        fit(simulate(Design(effects={"a": 0.0}), 0))


def test_the_worst_runs_diverge() -> None:
    evidence = simulate(Design(effects={"ls": 0.0, "mto": 0.0}, datasets=("a",), seeds=tuple(range(10))), 1)
    hurt = worst_diverge(evidence, "mto", 0.2)
    lost = [r for r in hurt.runs if r.state == "diverged"]
    assert len(lost) == 2
    kept = [r for r in evidence.phase("final") if r.method == "mto" and r.trial not in {x.trial for x in lost}]
    before = {r.trial: sum(v for (s, *_), v in r.values.items() if s == "test") for r in evidence.runs}
    assert min(before[r.trial] for r in lost) >= max(before[r.trial] for r in kept)
