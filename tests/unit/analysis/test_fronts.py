"""Claims against a sweep: geometry, error under placements where nothing is true, power, and the common practice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mtlfleet.plan.claims import Baseline, Claim, Estimand
from mtlfleet_analysis.decision import FlipTest, decide
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.jointly import EveryPart
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.pairing import Choice, Pair, Pairing
from mtlfleet_analysis.pareto import non_dominated
from mtlfleet_analysis.questions import Gathered, Question, gather, pose
from mtlfleet_analysis.simulation import Design, simulate
from mtlfleet_analysis.sweeps import Point, bulge, finer
from mtlfleet_analysis.verdict import Verdict

SWEEP = {f"w{i}": i / 10 for i in range(1, 10)}


def claim(members: Any = SWEEP, sweep: bool = True, **given: Any) -> Claim:
    estimand = Estimand(kind="front_pref", preferences=given.pop("preferences", ()), eps=given.pop("eps", None))
    baseline = Baseline(best_of=tuple(members), sweep=sweep)
    return Claim(**{"id": "f", "margin": 2.0, **given}, method="mto", baseline=baseline, estimand=estimand)


def judged(one: Claim, seed: int = 3, **given: Any) -> Verdict:
    effects = {**dict.fromkeys(SWEEP, 0.0), "mto": given.pop("effect", 0.0)}
    design = Design(**{"effects": effects, "sweep": SWEEP, "seeds": tuple(range(8)), "noise": 0.4, **given})
    return judge_evidence(simulate(design, seed, [one]), [one])[0]


# --- geometry


def test_the_bulge_of_a_parabola_is_an_eighth_of_its_second_difference_whatever_the_spacing() -> None:
    def curve(weights: list[float]) -> list[Point]:
        return [Point(f"{w}", (w, 1 - w), 5 - 8 * (w - 0.5) ** 2) for w in weights]

    assert bulge(curve([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(16 * 0.1**2 / 8)
    assert bulge(curve([0.1, 0.3, 0.4])) == pytest.approx(16 * 0.2**2 / 8)  # the larger of the two gaps counts
    dense, sparse = (bulge(curve(list(np.linspace(0, 1, k)))) for k in (17, 5))
    assert dense == pytest.approx(sparse / 16)


def test_the_bulge_bounds_what_a_finer_sweep_would_find() -> None:
    """Between two points of a circular front, under any preference, nothing sticks out by more (up to curvature)."""
    for k in (5, 9):
        coarse, fine = (np.linspace(0.1, 0.9, count) for count in (k, 801))
        for w in (0.3, 0.5, 0.62):
            value = front(fine) @ [w, 1 - w]
            known = [Point(f"{x}", (x, 1 - x), float(front(x) @ [w, 1 - w])) for x in coarse]
            excess = value.max() - max(p.score for p in known)
            assert excess <= 1.05 * bulge(known)


def test_a_bulge_needs_three_points_in_a_line_and_only_the_outward_side_counts() -> None:
    assert bulge([Point("a", (0.2, 0.8), 1.0), Point("b", (0.6, 0.4), 2.0)]) is None
    corner = [Point("a", (1.0, 0.0, 0.0), 1.0), Point("b", (0.0, 1.0, 0.0), 2.0), Point("c", (0.0, 0.0, 1.0), 3.0)]
    assert bulge(corner) is None
    assert bulge([Point("a", (0.0, 1.0), 3.0), Point("b", (0.5, 0.5), 1.0), Point("c", (1.0, 0.0), 3.0)]) == 0.0


def test_three_tasks_bulge_along_the_lines_of_their_lattice() -> None:
    lattice = [(i / 4, j / 4, (4 - i - j) / 4) for i in range(5) for j in range(5 - i)]
    points = [Point(str(w), w, -12 * (w[0] - 0.3) ** 2 - 2 * (w[1] - 0.4) ** 2) for w in lattice]
    # steps of a quarter: (1, -1, 0) gives (12 + 2) / 16 * 2, the steepest of the three directions
    assert bulge(points) == pytest.approx(2 * 14 / 16 / 8)
    assert len(finer(points, str(lattice[5]))) == 3


# --- error, on differences simulated as arrays: K points on a concave front, the method somewhere

FRONT, SIGMA = 50.0, 1.0  # the front's size, and a run's noise: 2 %


def front(weight: np.ndarray | float) -> np.ndarray:
    """Two tasks' scores on a circular front, at the preference that reaches them."""
    angle = np.asarray(weight) * np.pi / 2
    return np.stack([FRONT * np.sin(angle), FRONT * np.cos(angle)], axis=-1)


def study(rng: np.random.Generator, k: int, n: int, at: float, out: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights [k], sweep [k, n, 2], method [n, 2]): the method sits ``out`` sigma beyond the front at ``at``."""
    weights = np.linspace(0.1, 0.9, k)
    target = front(at) * (1 + out * SIGMA / FRONT)
    return (
        weights,
        front(weights)[:, None, :] + SIGMA * rng.standard_normal((k, n, 2)),
        target + SIGMA * rng.standard_normal((n, 2)),
    )


def asked(weights: np.ndarray, sweep: np.ndarray, method: np.ndarray, w: float, eps: float | None) -> Question:
    """The question a claim with preference (w, 1 - w) asks of these numbers."""
    names = [f"w{i}" for i in range(len(weights))]
    one = claim(names, preferences=((("a", w), ("b", 1 - w)),), eps=eps, margin=1e9)
    preference = np.array([w, 1 - w])
    mine, theirs = method @ preference, sweep @ preference
    place = ("d", "arch")

    def paired(values: np.ndarray) -> Pairing:
        pairs = tuple(Pair(*place, s, float(x), float(y)) for s, (x, y) in enumerate(zip(mine, values, strict=True)))
        return Pairing(pairs, (Choice(*place, "w0", {}),), ())

    parts = {f"0/{name}": paired(values) for name, values in zip(names, theirs, strict=True)}
    parts["0"] = parts["0/w0"]
    evidence = Evidence(
        study="s", sha256="0", runs=(), metrics={}, tasks=(), datasets=("d",), architectures=("arch",),
        methods=("mto", *names), seeds=tuple(range(len(mine))),
    )  # fmt: skip
    known = {(name, place): (float(x), float(1 - x)) for name, x in zip(names, weights, strict=True)}
    return pose(Gathered(one, evidence, parts["0"], parts, known), 1)


def beats(question: Question, alpha: float = 0.05) -> bool:
    return question.test.above(question.eps) <= alpha


def rate(k: int, n: int, at: float, out: float, studies: int = 200) -> tuple[float, float]:
    """(how often the claim is supported at eps = eps_grid, how often the mean point is not dominated)."""
    rng = np.random.default_rng([k, n, round(100 * at)])
    supported = free = 0
    for _ in range(studies):
        weights, sweep, method = study(rng, k, n, at, out)
        supported += beats(asked(weights, sweep, method, 0.5, None))
        free += bool(non_dominated(np.vstack([sweep.mean(axis=1), method.mean(axis=0)]), True)[-1])
    return supported / studies, free / studies


@pytest.mark.parametrize(("k", "n"), [(5, 10), (9, 5)])
def test_a_method_on_the_front_is_not_said_to_beat_it(k: int, n: int) -> None:
    """At a sweep point, and between two of them; the usual criterion "not dominated" fires most of the time."""
    limit = float(stats.binom.ppf(0.999, 200, 0.05)) / 200
    step = 0.8 / (k - 1)
    for at in (0.5, 0.5 + step / 2):
        supported, free = rate(k, n, at, 0.0)
        assert supported <= limit
        assert free > 0.6, "the negative control passes: the harness would not notice anything"


def test_a_method_two_sigma_beyond_the_front_is_found() -> None:
    supported, _ = rate(9, 10, 0.5, 2.0, 150)
    assert supported >= 0.85


def test_without_the_bulge_a_coarse_sweep_is_beaten_by_its_own_front() -> None:
    """Five points, the method on the front between two: with eps near zero it wins too often, with the bulge never."""
    rng = np.random.default_rng(11)
    naive = guarded = 0
    for _ in range(150):
        weights, sweep, method = study(rng, 5, 20, 0.6, 0.0)
        w = float(np.sin(0.3 * np.pi) / (np.sin(0.3 * np.pi) + np.cos(0.3 * np.pi)))  # what that place is best for
        naive += beats(asked(weights, sweep, method, w, 1e-9))
        guarded += beats(asked(weights, sweep, method, w, None))
    assert naive / 150 > 0.1
    assert guarded / 150 <= 0.02


# --- whole verdicts


def test_a_front_is_beaten_refuted_or_too_coarse() -> None:
    won = judged(claim(), effect=4.0)
    assert (won.verdict, won.detail["front"]["too_coarse"]) == ("supported", False)
    assert won.effect == pytest.approx(4.0, abs=0.8)
    assert "every point of the sweep w1 … w9" in won.sentence
    assert judged(claim(), effect=0.0).title == "refuted (equivalent)"
    coarse = judged(claim(eps=0.001), effect=4.0)
    assert coarse.title == "inconclusive (sweep too coarse)"
    assert "weights to add: 0." in coarse.sentence
    assert judged(claim(alternative="no_better_than"), effect=0.0).verdict == "supported"
    assert judged(claim(alternative="no_better_than"), effect=5.0).title == "refuted (better)"


def test_the_strongest_point_of_each_place_is_what_must_be_beaten() -> None:
    """A method that beats most of the sweep by far and one point not at all is not supported."""
    effects = {**dict.fromkeys(SWEEP, 0.0), "w2": 6.0, "mto": 4.0}
    found = judged(claim(), effects=effects)
    assert found.verdict in ("refuted", "inconclusive")
    assert {c["baseline"] for c in found.detail["choices"]} == {"w2"}


def test_several_preferences_cost_a_factor_and_find_the_one_that_is_won() -> None:
    left, right = (("left", 0.9), ("right", 0.1)), (("left", 0.1), ("right", 0.9))
    alone, both = (judged(claim(preferences=p), effect=5.0) for p in ((left,), (left, right)))
    rows = both.detail["front"]["preferences"]
    assert [row["w"] for row in rows] == [dict(left), dict(right)]
    assert both.p_value >= min(1.0, 2 * min(row["p"] for row in rows)) - 1e-12
    assert alone.detail["front"]["preferences"][0]["p"] == alone.p_value


def test_three_tasks_and_a_baseline_that_validation_chose() -> None:
    tasks = ("left", "middle", "right")
    three = judged(claim(), effect=5.0, tasks=tasks)
    assert three.detail["front"]["eps_grid"] is not None
    chosen = claim(sweep=False)
    found = judged(chosen, effect=4.0)
    assert found.verdict == "supported"
    assert all(c["scores"] for c in found.detail["choices"])
    assert found.detail["front"]["eps"] == 0.0


def test_a_sweep_that_was_not_tuned_is_judged_without_choosing_a_point_on_the_runs_that_judge_it() -> None:
    effects = {**dict.fromkeys(SWEEP, 0.0), "mto": 4.0}
    answers = {}
    for effect in (4.0, 0.0):
        one = claim()
        design = Design(effects={**effects, "mto": effect}, sweep=SWEEP, seeds=tuple(range(8)), noise=0.4)
        whole = simulate(design, 3, [one])
        untuned = replace(whole, runs=whole.phase("final"))
        answers[effect] = [judge_evidence(e, [one])[0] for e in (whole, untuned)]
    assert [v.verdict for v in answers[4.0]] == ["supported", "supported"]
    assert [v.verdict for v in answers[0.0]] == ["refuted", "refuted"]
    tuned, untuned_verdict = answers[4.0]
    assert untuned_verdict.p_value == tuned.p_value, "beating every point needs no choice"
    upper = [v.detail["limits"][1] for v in answers[0.0]]
    assert upper[1] >= upper[0] - 0.3, "a point that nobody chose costs a share of the level"


def test_refuting_an_untuned_sweep_keeps_its_level() -> None:
    """The method really is one margin better than every point; the worst of nine noisy contrasts must not deny it."""
    rng, wrong = np.random.default_rng(12), 0
    for _ in range(150):
        parts = tuple(FlipTest.of(list(1.0 + rng.standard_normal(8)), [0] * 8, 1) for _ in range(9))
        wrong += EveryPart(parts).below(1.0) <= 0.05
    assert wrong / 150 <= float(stats.binom.ppf(0.999, 150, 0.05)) / 150


def test_unknown_weights_are_too_coarse_not_fine() -> None:
    one = claim()
    design = Design(effects={**dict.fromkeys(SWEEP, 0.0), "mto": 5.0}, seeds=tuple(range(6)), noise=0.4)
    found = judge_evidence(simulate(design, 1, [one]), [one])[0]
    assert found.title == "inconclusive (sweep too coarse)"
    assert found.detail["front"]["eps_grid"] is None


def test_a_change_of_unit_or_the_order_of_the_sweep_changes_nothing() -> None:
    one, turned = claim(), claim(tuple(SWEEP)[::-1])
    plain, scaled = (judged(one, effect=3.0, scale=c) for c in (1.0, 50.0))
    assert scaled.effect == pytest.approx(plain.effect)
    assert scaled.p_value == plain.p_value
    design = Design(effects={**dict.fromkeys(SWEEP, 0.0), "mto": 3.0}, sweep=SWEEP, seeds=tuple(range(8)), noise=0.4)
    evidence = simulate(design, 3)
    first, second = (pose(gather(evidence, c), 5) for c in (one, turned))
    assert first.test.above(first.eps) == second.test.above(second.eps)
    assert decide(one, first.test, 0.05, first.eps) == decide(turned, second.test, 0.05, second.eps)


def test_a_missing_run_of_any_sweep_point_stops_the_claim() -> None:
    one = claim()
    design = Design(effects={**dict.fromkeys(SWEEP, 0.0), "mto": 3.0}, sweep=SWEEP, seeds=tuple(range(8)))
    evidence = simulate(design, 3, [one])
    runs = tuple(
        replace(r, state="lost", values={}) if (r.method, r.seed, r.phase) == ("w7", 2, "final") else r
        for r in evidence.runs
    )
    found = judge_evidence(replace(evidence, runs=runs), [one])[0]
    assert found.verdict == "invalid"
    assert any(g.startswith("complete_pairs") and "w7" in g for g in found.guards)
