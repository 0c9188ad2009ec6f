"""Descriptions against enumeration and published facts; every kind says its unit, sign and convention."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlfleet.plan.claims import Estimand, Kind
from mtlfleet.plan.claimschema import EstimandEntry
from mtlfleet.plan.estimands import ESTIMANDS
from mtlfleet.plan.tasks import METRICS
from mtlfleet_analysis import hypervolume
from mtlfleet_analysis.estimands import compute_matched, evp, profile, stated, time_to_target, win_rate
from mtlfleet_analysis.pareto import eps_indicator, hypervolume_ratio


def test_every_kind_has_its_facts_and_only_the_claimable_ones_are_not_refused() -> None:
    kinds = get_args(EstimandEntry.model_fields["kind"].annotation)
    assert set(kinds) == set(ESTIMANDS)
    assert {k for k, facts in ESTIMANDS.items() if not facts.refused} == set(get_args(Kind))
    assert all(f.unit and f.better in ("higher", "lower") and f.convention and f.valid_for for f in ESTIMANDS.values())
    assert ESTIMANDS["delta_m"].better == "lower"
    assert stated(Estimand(kind="metric", task="left", metric="rmse"), METRICS)["metric_unit"] == "target units"


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.integers(1, 4), st.randoms())
@settings(max_examples=40, deadline=None)
def test_evp_is_the_mean_over_all_subsets(scores: list[float], k: int, random: object) -> None:
    k = min(k, len(scores) // 2)
    validation = list(range(len(scores)))
    random.shuffle(validation)  # type: ignore[attr-defined]
    found = evp(scores, k, validation)
    best = [scores[max(s, key=lambda i: validation[i])] for s in combinations(range(len(scores)), k)]
    assert found == pytest.approx(np.mean(best))
    assert (found.kind, found.better) == ("evp", "higher")


def test_evp_without_replacement_is_unbiased_where_the_published_form_is_low() -> None:
    """Twenty normal trials, best of ten: E = 1.5388; drawing with replacement gives about 1.42."""
    rng, ours, dodge = np.random.default_rng(0), [], []
    for _ in range(3000):
        y = np.sort(rng.standard_normal(20))
        ours.append(float(evp(y, 10)))
        cdf = np.arange(21) / 20
        dodge.append(float(np.sum(y * (cdf[1:] ** 10 - cdf[:-1] ** 10))))
    assert np.mean(ours) == pytest.approx(1.5388, abs=0.02)
    assert np.mean(dodge) == pytest.approx(1.42, abs=0.02)


@pytest.mark.parametrize("k", [0, 6, 10])
def test_evp_keeps_to_half_of_the_trials(k: int) -> None:
    with pytest.raises(ValueError, match="budgets of 1 to 5"):
        evp(np.arange(10.0), k)
    with pytest.raises(ValueError, match="finite"):
        evp([1.0, math.nan], 1)


def test_ties_on_validation_share_their_scores() -> None:
    assert float(evp([0.0, 10.0, 4.0, 4.0], 1, [1.0, 1.0, 1.0, 1.0])) == 4.5
    assert float(evp([0.0, 10.0, 4.0, 4.0], 2, [1.0, 1.0, 0.0, 0.0])) == pytest.approx(
        (5.0 * 5 + 4.0) / 6
    )  # five of six pairs hold one of the tied best two, which stand for their mean


def test_a_failed_run_reaches_no_threshold() -> None:
    assert profile([1.0, 2.0, math.nan, -math.inf], [0.0, 1.5, 3.0]).tolist() == [0.5, 0.25, 0.0]
    assert profile([1.0, 2.0, math.inf], [1.5, 9.0], higher_is_better=False).tolist() == [1 / 3, 2 / 3]


def test_win_rate_time_and_compute() -> None:
    assert float(win_rate([1, 2, 3, 4], [0, 2, 5, 1])) == 0.625
    times, values = [30, 10, 20], [0.9, 0.5, 0.8]
    assert float(time_to_target(times, values, 0.8, higher_is_better=True)) == 20
    assert math.isinf(time_to_target(times, values, 0.95, higher_is_better=True))
    assert float(time_to_target(times, values, 0.5, higher_is_better=False)) == 10
    assert float(compute_matched(times, values, 25)) == 0.8
    with pytest.raises(ValueError, match="nothing was measured"):
        compute_matched(times, values, 5)


def test_hypervolumes_are_compared_between_sets_of_one_size() -> None:
    a, b = [[1.0, 3.0], [3.0, 1.0]], [[2.0, 3.0], [3.0, 2.0]]
    assert hypervolume_ratio(a, b, 4.0) == pytest.approx(hypervolume(a, 4.0) / hypervolume(b, 4.0))
    with pytest.raises(ValueError, match="equal size"):
        hypervolume_ratio(a, b[:1], 4.0)
    with pytest.raises(ValueError, match="no point"):
        hypervolume_ratio(a, b, 1.0)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_epsilon_indicator_is_the_least_shift_that_dominates(n: int, m: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 9, (n, k)), rng.integers(0, 9, (m, k))
    eps = eps_indicator(a, b)

    def dominates(shift: float) -> bool:
        return all(any((p - shift <= q).all() for p in a) for q in b)

    assert dominates(eps)
    assert not dominates(eps - 0.5)
    assert eps_indicator(-a, -b, higher_is_better=True) == eps
    assert eps_indicator(a, a) <= 0


def test_the_page_on_claims_says_why_each_of_the_others_carries_none() -> None:
    page = (Path(__file__).parents[3] / "docs" / "claims.md").read_text(encoding="utf-8")
    rows = {kind: f"| `{kind}` | {facts.refused} |" for kind, facts in ESTIMANDS.items() if facts.refused}
    assert [kind for kind, row in rows.items() if row not in page] == []
