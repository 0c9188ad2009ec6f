"""The picture of a front claim: its own coordinates, the line that is preferred, the band that must be passed."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from mtlfleet.plan.claims import Baseline, Claim, Estimand, Preference, Stopping
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.fronts import Front, fronts, weighed
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.readings import tradeoffs
from mtlfleet_analysis.report import of_evidence
from mtlfleet_analysis.report.front_figures import MOST_TASKS, front, matrix, preferred
from mtlfleet_analysis.report.svg import draw
from mtlfleet_analysis.simulation import Design, simulate
from mtlfleet_analysis.verdict import Verdict

SWEEP = {f"w{i}": i / 10 for i in (1, 3, 5, 7, 9)}
LEFT: Preference = (("left", 3.0), ("right", 1.0))
ALONE: Preference = (("left", 1.0), ("right", 0.0))


def claim(*preferences: Preference, **given: Any) -> Claim:
    baseline = given.pop("baseline", Baseline(best_of=tuple(SWEEP), sweep=True))
    estimand = Estimand(kind="front_pref", preferences=preferences)
    return Claim(**{"id": "f", "margin": 2.0, **given}, method="mto", baseline=baseline, estimand=estimand)


@cache
def study(one: Claim, tasks: tuple[str, ...] = ("left", "right")) -> tuple[Evidence, Verdict]:
    effects = {**dict.fromkeys(SWEEP, 0.0), "mto": 3.0}
    fates = {("w5", "digits", 2): "diverged"}
    design = Design(
        effects=effects, sweep=SWEEP, seeds=tuple(range(6)), noise=0.4, datasets=("digits",), tasks=tasks, fates=fates
    )
    evidence = simulate(design, 3, [one])
    return evidence, judge_evidence(evidence, [one])[0]


def drawn(one: Claim) -> tuple[Front, dict[str, Any]]:
    evidence, verdict = study(one)
    found = fronts(evidence, verdict)[0]
    return found, front(found, evidence.methods, "t")


@pytest.mark.parametrize("preferences", [(), (LEFT,), (ALONE,), (LEFT, ALONE)])
def test_the_line_goes_through_the_best_point_and_the_band_is_as_wide_as_eps(preferences: Any) -> None:
    found, spec = drawn(claim(*preferences))
    means = {p.method: p.values for p in found.tradeoff.points if p.kind == "mean"}
    assert len(found.lines) == max(1, len(preferences))
    bands = [x["data"]["values"] for x in spec["layer"] if x["mark"].get("interpolate") == "linear-closed"]
    rules = [x["data"]["values"] for x in spec["layer"] if "stroke" in x["mark"] and "data" in x]
    assert len(bands) == len(rules) == len(found.lines)
    for line, band, rule in zip(found.lines, bands, rules, strict=True):
        assert sum(line.weights) == pytest.approx(1.0)
        assert line.level == pytest.approx(max(weighed(line.weights, means[m]) for m in SWEEP))
        levels = [weighed(line.weights, (c["x"], c["y"])) for c in band]
        assert levels == pytest.approx([line.level, line.level, line.level + found.eps, line.level + found.eps])
        assert rule == band[:2]
    domains = [spec["layer"][-1]["encoding"][axis]["scale"]["domain"] for axis in "xy"]
    columns = zip(*means.values(), strict=True)
    assert all(low <= min(v) <= max(v) <= high for v, (low, high) in zip(columns, domains, strict=True))


def test_the_picture_says_what_the_verdict_says() -> None:
    """One dataset: the effect is how far the method's mean lies beyond the point that is hardest to beat."""
    evidence, verdict = study(claim(LEFT))
    found = fronts(evidence, verdict)[0]
    means = {p.method: weighed(found.lines[0].weights, p.values) for p in found.tradeoff.points if p.kind == "mean"}
    hardest = verdict.detail["choices"][0]["baseline"]
    assert verdict.effect == pytest.approx(means["mto"] - means[hardest])
    assert found.eps == verdict.detail["front"]["eps"] > 0
    seeds = [p.values for p in found.tradeoff.points if (p.method, p.kind) == ("w5", "seed")]
    assert len(seeds) == 6, "a failed run is scored worst and shown"


def test_marks_are_drawn() -> None:
    _, spec = drawn(claim(LEFT, ALONE))
    svg = draw(spec, "f", "d")
    count = [len(re.findall(rf'mark-line[^"]*layer_{i}_marks"[^>]*>\s*<path', svg)) for i in range(4)]
    assert count == [1, 1, 1, 1]  # two bands, then two lines
    crosses, means = (
        len(re.findall(r"<path", re.split(rf"layer_{4 + i}_marks", svg)[1].split("</g>")[0])) for i in (3, 4)
    )
    assert (crosses, means) == (36, 6)


def test_a_baseline_that_validation_chose_is_one_point_without_a_sweep() -> None:
    one = claim(baseline=Baseline(best_of=("w3", "w5")))
    evidence, verdict = study(one)
    found = fronts(evidence, verdict)[0]
    assert {p.method for p in found.tradeoff.points} == {"mto", verdict.detail["choices"][0]["baseline"]}
    assert not [p for p in found.tradeoff.points if p.kind == "weight"]
    assert front(found, evidence.methods, "t")["layer"]


def test_three_tasks_are_drawn_along_the_preference_and_two_at_a_time() -> None:
    one = claim()
    evidence, verdict = study(one, ("a", "b", "c"))
    found = fronts(evidence, verdict)[0]
    spec = preferred(found, evidence.methods, "t")
    bounds = spec["layer"][0]["data"]["values"][0]
    assert bounds["beyond"] - bounds["level"] == pytest.approx(found.eps)
    means = {r["method"]: r["score"] for r in spec["layer"][-1]["data"]["values"]}
    assert max(v for m, v in means.items() if m != "mto") == pytest.approx(bounds["level"])
    assert means["mto"] > bounds["level"]
    pairs = matrix(tradeoffs(evidence, [], [tuple(SWEEP)])[0], evidence.methods, "t")["concat"]
    titles = [[p["layer"][0]["encoding"][axis]["axis"]["title"][0] for axis in "xy"] for p in pairs]
    assert titles == [["a", "b"], ["a", "c"], ["b", "c"]]
    names = [f.name for f in of_evidence(evidence, [one]).figures]
    assert {"front0", "matrix0", "claimed0"} <= set(names)
    many = study(claim(), tuple("abcdef"))[0]
    assert len(many.tasks) > MOST_TASKS
    assert "matrix0" not in [f.name for f in of_evidence(many, []).figures]


def test_seeds_beyond_the_look_that_decided_are_not_shown() -> None:
    one = claim(stopping=Stopping(kind="group_sequential", looks=(5, 7), alpha=(0.04, 0.01)))
    effects = {**dict.fromkeys(SWEEP, 0.0), "mto": 4.0}
    evidence = simulate(
        Design(effects=effects, sweep=SWEEP, seeds=tuple(range(7)), noise=0.4, datasets=("digits",)), 3, [one]
    )
    verdict = judge_evidence(evidence, [one])[0]
    assert (verdict.verdict, verdict.detail["look"]["number"]) == ("supported", 1)
    points = fronts(evidence, verdict)[0].tradeoff.points
    assert sum((p.method, p.kind) == ("mto", "seed") for p in points) == 5


def test_other_claims_and_unjudged_ones_have_no_such_picture() -> None:
    evidence, verdict = study(claim())
    assert fronts(evidence, replace(verdict, claim=replace(verdict.claim, estimand=Estimand()))) == ()
    lost = replace(evidence, runs=tuple(r for r in evidence.runs if (r.method, r.seed) != ("mto", 1)))
    invalid = judge_evidence(lost, [claim()])[0]
    assert invalid.verdict == "invalid"
    assert fronts(lost, invalid) == ()


def test_a_method_looks_the_same_in_every_figure() -> None:
    evidence, _ = study(claim())
    figures = of_evidence(evidence, [claim()]).figures
    looks = {f.name: _colours(f.spec) for f in figures if _colours(f.spec)}
    assert {"front0", "claimed0", "profile"} <= set(looks)
    assert len({tuple(sorted(found.items())) for found in looks.values()}) == 1


def _colours(part: Any) -> dict[str, str]:
    """Method -> hue, of the first scale of methods in a specification."""
    if isinstance(part, dict):
        scale = part.get("scale")
        if (
            part.get("field") == "method"
            and isinstance(scale, dict)
            and str(scale.get("range", [""])[0]).startswith("#")
        ):
            return dict(zip(scale["domain"], scale["range"], strict=True))
        return next((c for value in part.values() if (c := _colours(value))), {})
    return next((c for value in part if (c := _colours(value))), {}) if isinstance(part, list) else {}
