"""Claims corrected together: max-T against brute force, its error and its gain, and what a family does to a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mtlfleet.plan.claims import Baseline, Claim
from mtlfleet_analysis import holm, sign_flip_test
from mtlfleet_analysis.families import max_t
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.simulation import Design, simulate


def brute(terms: np.ndarray) -> np.ndarray:
    """Step-down max-T written from its definition: every flip, every nested set, one after the other."""
    m, n = terms.shape
    signs = 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1
    size = np.sqrt((terms**2).sum(axis=1))
    observed = terms.sum(axis=1) / size
    flipped = signs @ (terms / size[:, None]).T
    order, adjusted, highest = np.argsort(-observed), np.zeros(m), 0.0
    for rank, i in enumerate(order):
        rest = order[rank:]
        highest = max(highest, float(np.mean(flipped[:, rest].max(axis=1) >= observed[i] - 1e-12)))
        adjusted[i] = highest
    return adjusted


@pytest.mark.parametrize("seed", range(6))
def test_max_t_is_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    terms = rng.normal(0.4, 1.0, (4, 9)) + rng.normal(size=9)
    found = max_t(terms)
    assert found == pytest.approx(brute(terms))
    assert max_t(terms[::-1])[::-1] == pytest.approx(found)
    assert max_t(terms[:, ::-1]) == pytest.approx(found)
    assert max_t(terms * np.array([[1.0], [7.0], [0.01], [3.0]])) == pytest.approx(found)
    alone = [sign_flip_test(t, alternative="greater").p_value for t in terms]
    assert (found >= np.array(alone) - 1e-12).all()
    assert max_t(terms[:1]) == pytest.approx(alone[:1])


def test_drawn_flips_agree_with_all_of_them_and_repeat() -> None:
    rng = np.random.default_rng(9)
    terms = rng.normal(0.5, 1.0, (3, 16)) + rng.normal(size=16) / 2
    found = max_t(terms, seed=4)
    assert (found == max_t(terms, seed=4)).all()
    assert found == pytest.approx(brute(terms), abs=0.006)


def test_fifteen_null_methods_against_one_baseline() -> None:
    """The family's error, for both corrections; without one it is several times too large."""
    rng, studies = np.random.default_rng(10), 300
    errors = {"max_t": 0, "holm": 0, "none": 0}
    for _ in range(studies):
        baseline = rng.standard_t(5, 10)
        terms = rng.standard_t(5, (15, 10)) - baseline
        p = [sign_flip_test(t, alternative="greater").p_value for t in terms]
        errors["max_t"] += bool((max_t(terms) <= 0.05).any())
        errors["holm"] += bool((holm(p) <= 0.05).any())
        errors["none"] += bool(min(p) <= 0.05)
    limit = float(stats.binom.ppf(0.999, studies, 0.05))
    assert errors["max_t"] <= limit
    assert errors["holm"] <= limit
    assert errors["none"] > 3 * limit
    assert errors["max_t"] > 0.015 * studies


def claims(correction: Any, methods: tuple[str, ...]) -> list[Claim]:
    return [
        Claim(id=m, method=m, baseline=Baseline(best_of=("ls",)), margin=1.0, correction=correction) for m in methods
    ]


def test_max_t_supports_where_holm_has_no_resolution_left() -> None:
    """Five seeds on one dataset and three methods: Holm's smallest p is 3/32, max-T's is 1/32."""
    methods = ("a", "b", "c")
    effects = {"ls": 0.0, "a": 8.0, "b": 8.0, "c": 8.0}
    design = Design(effects=effects, datasets=("d",), seeds=tuple(range(5)), noise=0.5)
    found = {}
    for correction in ("holm", "max_t"):
        asked = claims(correction, methods)
        found[correction] = {v.claim_id: v for v in judge_evidence(simulate(design, 1, asked), asked)}
    assert [found["holm"][m].verdict for m in methods] == ["inconclusive"] * 3
    assert [found["max_t"][m].verdict for m in methods] == ["supported"] * 3
    assert found["max_t"]["a"].p_adjusted == pytest.approx(1 / 32)
    assert "max-T p" in found["max_t"]["a"].sentence


def test_max_t_refuses_claims_that_share_no_pairs() -> None:
    one, two = claims("max_t", ("a", "b"))
    other = Claim(id="b", method="b", baseline=two.baseline, margin=1.0, correction="max_t", datasets=("digits",))
    evidence = simulate(Design(effects={"ls": 0.0, "a": 1.0, "b": 1.0}), 1, [one, other])
    with pytest.raises(ValueError, match="same pairs"):
        judge_evidence(evidence, [one, other])
