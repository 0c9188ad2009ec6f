"""The report as text: the same bytes every time, nothing that could run, and a page for every stage of a study."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest

from mtlfleet.plan.claims import Baseline, Claim
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.leaderboard import leaderboard
from mtlfleet_analysis.readings import changes, tradeoffs
from mtlfleet_analysis.report import page
from mtlfleet_analysis.report.method_figures import heat, pareto
from mtlfleet_analysis.report.palette import SHAPES, VERDICTS
from mtlfleet_analysis.report.svg import clean, inline
from mtlfleet_analysis.simulation import Design, simulate

CLAIM = Claim(id="c", method="pcgrad", baseline=Baseline(best_of=("ls",)), margin=1.0, question="Better?")


def study(**given: Any) -> Evidence:
    effects = {"ls": 0.0, "pcgrad": 3.0, "mgda": -2.0}
    return simulate(Design(**{"effects": effects, "configs": 3, **given}), 0, [CLAIM])


def rendered(evidence: Evidence, claims: tuple[Claim, ...] = (CLAIM,)) -> str:
    return page(evidence, judge_evidence(evidence, claims))


def test_the_same_evidence_gives_the_same_bytes_in_any_row_order() -> None:
    evidence = study()
    assert rendered(evidence) == rendered(replace(evidence, runs=evidence.runs[::-1]))


def test_the_policy_allows_this_style_sheet_and_nothing_else() -> None:
    html = rendered(study())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert policy
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'")
    assert "script-src" not in policy[1]
    assert not re.search(r"<script|\son\w+=|\sstyle=|https?://|url\((?!#)", html)


def test_ids_in_figures_never_collide() -> None:
    ids = re.findall(r'\sid="([^"]+)"', rendered(study()))
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", rendered(study()))) <= set(ids)


def test_claims_come_first_and_numbers_are_there() -> None:
    html = rendered(study())
    order = [
        "claims",
        "effects",
        "leaderboard",
        "tradeoffs",
        "tasks",
        "failures",
        "budget",
        "sensitivity",
        "provenance",
    ]
    places = [html.index(f'<section id="{name}"') for name in order]
    assert places == sorted(places)
    verdict = judge_evidence(study(), [CLAIM])[0]
    assert verdict.sentence in html
    assert verdict.detail["registration"] in html
    assert "FROM verdicts" in html


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("nothing ran", "No method has a score yet"),
        ("no claims", "This study claims nothing"),
        ("no stl", "No method has a score yet"),
        ("only tuning", "invalid"),
        ("three tasks", "worst mean → best mean"),
        ("one task", "Leaderboard"),
        ("one seed", "one seed per dataset"),
        ("all diverged", "diverged"),
    ],
)
def test_every_stage_of_a_study_has_a_page(what: str, expected: str) -> None:
    full = study()
    stages: dict[str, tuple[Evidence, tuple[Claim, ...]]] = {
        "nothing ran": (replace(full, runs=()), (CLAIM,)),
        "no claims": (full, ()),
        "no stl": (replace(full, runs=tuple(r for r in full.runs if r.method != "stl"), single_task=()), (CLAIM,)),
        "only tuning": (replace(full, runs=full.phase("tune")), (CLAIM,)),
        "three tasks": (study(tasks=("a", "b", "c")), (CLAIM,)),
        "one task": (study(tasks=("a",)), (CLAIM,)),
        "one seed": (study(seeds=(0,)), (CLAIM,)),
        "all diverged": (
            study(
                fates={(m, d, s): "diverged" for m in ("pcgrad", "ls") for d in ("digits", "waves") for s in range(5)}
            ),
            (CLAIM,),
        ),
    }
    assert expected in rendered(*stages[what])


def test_no_method_stands_alone_unless_a_test_separates_it() -> None:
    close = leaderboard(simulate(Design(effects={"ls": 0.0, "pcgrad": 0.2, "mgda": -9.0}), 0))
    marked = {e.method for e in close.entries if e.separated is False}
    assert {"ls", "pcgrad"} <= marked
    assert "mgda" not in marked
    assert close.entries[-1].method == "mgda"
    assert [e.mean for e in close.entries] == sorted((e.mean for e in close.entries), reverse=True)


def test_a_method_that_owes_runs_is_shown_and_not_ranked() -> None:
    evidence = study(fates={("mgda", "waves", 1): "lost"})
    entry = next(e for e in leaderboard(evidence).entries if e.method == "mgda")
    assert (entry.runs, entry.owed, entry.separated, entry.mean_rank) == (9, 1, None, None)


def test_points_and_cells_are_the_runs() -> None:
    evidence = study()
    found = tradeoffs(evidence, ["ls"])
    assert [(t.dataset, len(t.tasks)) for t in found] == [("digits", 2), ("waves", 2)]
    kinds = [p.kind for p in found[0].points if p.method == "ls"]
    assert (kinds.count("sweep"), kinds.count("seed"), kinds.count("mean")) == (3, 5, 1)
    spec = pareto(found[0], evidence.methods, "t")
    assert all(layer["encoding"]["x"]["scale"]["reverse"] for layer in spec["layer"])  # errors: up-right is better
    cells = changes(evidence)
    assert len(cells) == 2 * 2 * 3  # datasets, tasks, methods without the reference
    best = max(cells, key=lambda c: c.mean)
    assert best.method == "pcgrad"
    assert heat(cells, evidence.methods, "t")["data"]["values"][0]["text"][0] in "+−0"


def test_every_verdict_has_a_glyph_a_colour_and_a_shape_of_its_own() -> None:
    assert set(SHAPES) == set(VERDICTS)
    assert len(set(SHAPES.values())) == len({g for g, _ in VERDICTS.values()}) == len(VERDICTS)


def test_a_drawing_may_hold_shapes_and_nothing_else() -> None:
    head = '<svg xmlns="http://www.w3.org/2000/svg">'
    for evil in ("<script>1</script>", "<foreignObject/>", '<image href="x"/>', "<a/>", "<style>*{}</style>", "<use/>"):
        with pytest.raises(ValueError, match="unexpected element"):
            inline(f"{head}{evil}</svg>", "f", "d")
    kept = inline(f'{head}<g onload="x" style="y" fill="#fff" id="a" clip-path="url(#a)"/></svg>', "f", '"><script>')
    assert 'id="f-a" clip-path="url(#f-a)"' in kept
    assert "onload" not in kept
    assert "style" not in kept
    assert "<script>" not in kept


def test_text_loses_what_a_terminal_or_a_reader_would_obey() -> None:
    assert clean("a\x1b[31mb\u202ec\u2066d\x00") == "a�[31mb�c�d�"
    assert clean("x" * 50, 10) == "x" * 9 + "…"
