"""What a design can show before its runs: resolution, simulated power against known figures, seeds that would do."""

from __future__ import annotations

from typing import Any

import pytest

from mtlfleet.plan.claims import Baseline, Claim, Estimand, Stopping
from mtlfleet_analysis.preflight import preflight
from mtlfleet_analysis.simulation import Design, simulate

SD = (2 * 0.75) ** 0.5  # of one assumed pair, in percentage points


def claim(**given: Any) -> Claim:
    return Claim(**{"id": "c", "margin": 1.0, **given}, method="pcgrad", baseline=Baseline(best_of=("ls",)))


def ahead(one: Claim, datasets: Any = 1, seeds: int = 10, family: int = 1, **given: Any) -> Any:
    return preflight(one, datasets=datasets, architectures=1, seeds=seeds, family=family, **given)


@pytest.mark.parametrize(
    ("datasets", "seeds", "effect", "family", "power"),
    [(1, 10, 1.0, 1, 0.79), (1, 20, 0.5, 1, 0.54), (3, 10, 0.5, 1, 0.69), (10, 5, 0.5, 1, 0.87), (3, 5, 1.0, 15, 0.50)],
)
def test_power_of_the_sign_flip_test_is_the_known_one(
    datasets: int, seeds: int, effect: float, family: int, power: float
) -> None:
    """Effects in standard deviations of a run; fractions of 3000 simulated studies, ours are 500."""
    found = ahead(claim(margin=effect), datasets, seeds, family)
    assert found.power == pytest.approx(power, abs=0.08)
    assert found.pair_sd == pytest.approx(SD)


def test_equivalence_needs_more_than_superiority() -> None:
    assert ahead(claim(alternative="equivalence"), seeds=10).power == pytest.approx(0.56, abs=0.09)
    assert ahead(claim(alternative="no_better_than"), seeds=10).power > 0.7


def test_each_look_says_whether_it_can_decide() -> None:
    looks = Stopping(kind="group_sequential", looks=(5, 7, 20), alpha=(0.01, 0.015, 0.025))
    found = ahead(claim(stopping=looks), seeds=20)
    assert [(look.seeds, look.able) for look in found.looks] == [(5, False), (7, True), (20, True)]
    assert [look["able"] for look in found.to_dict()["looks"]] == [False, True, True]
    fixed = ahead(claim(), seeds=20)
    assert fixed.power - 0.13 <= found.power <= fixed.power + 0.02
    assert not ahead(claim(stopping=Stopping(kind="anytime")), seeds=4).looks[0].able


def test_the_seeds_asked_for_would_do() -> None:
    short = ahead(claim(), seeds=5)
    assert short.power < 0.6
    assert 9 <= short.seeds_needed <= 13
    assert ahead(claim(), seeds=short.seeds_needed).power >= 0.74


def test_variants_of_one_dataset_are_planned_as_one() -> None:
    general = claim(scope="datasets_like_these", margin=1.5)
    kin = claim(scope="datasets_like_these", margin=1.5, dataset_families=(("b", "a"), ("c", "a"), ("e", "d")))
    names = ("a", "b", "c", "d", "e", "f")
    six, three = ahead(general, names, 10), ahead(kin, names, 10)
    assert six.power == ahead(general, 6, 10).power
    assert three.power == pytest.approx(ahead(general, 3, 10).power, abs=0.1) and three.power < six.power - 0.1


def test_other_datasets_are_bought_with_datasets() -> None:
    general = claim(scope="datasets_like_these", margin=1.0)
    few, many = (ahead(general, datasets=d, seeds=20) for d in (3, 10))
    assert many.power > few.power
    assert few.datasets_needed > 3
    assert few.looks[0].able


def test_noise_comes_from_a_pilot_or_is_not_made_up() -> None:
    one = claim(estimand=Estimand(kind="metric", task="left", metric="error"), margin=0.01)
    assert ahead(one).power is None
    evidence = simulate(Design(effects={"ls": 0.0, "pcgrad": 0.0}, datasets=("digits",), noise=3.0), 1)
    found = ahead(one, pilot=evidence)
    assert found.power is not None
    assert found.noise == "5 pairs of this store"
    wide = ahead(claim(), pilot=evidence)
    assert wide.pair_sd > 1.5 * SD
    front = claim(estimand=Estimand(kind="front_pref"))
    assert ahead(front).power is None
