"""The report as text: the same bytes every time, nothing that could run, and a page for every stage of a study."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from mtlfleet.plan.claims import Baseline, Claim
from mtlfleet_analysis.curves import dataset_ranks, expected_best, profile, run_scores
from mtlfleet_analysis.evidence import Evidence, External
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.leaderboard import leaderboard
from mtlfleet_analysis.readings import changes, tradeoffs
from mtlfleet_analysis.report import of_evidence, page
from mtlfleet_analysis.report.exporting import export
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
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert html.count("<script") == len(scripts) == 1
    allowed = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}';" in policy[1]
    assert "unsafe" not in policy[1]
    assert not re.search(r"\son\w+=|\sstyle=|https?://|url\((?!#)", html)


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
        "profiles",
        "seeds",
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
    assert (kinds.count("tried") + kinds.count("front"), kinds.count("seed"), kinds.count("mean")) == (3, 5, 1)
    spec = pareto(found[0], evidence.methods, "t")
    assert all(layer["encoding"]["x"]["scale"]["reverse"] for layer in spec["layer"])  # errors: up-right is better
    cells = changes(evidence)
    assert len(cells) == 2 * 2 * 3  # datasets, tasks, methods without the reference
    best = max(cells, key=lambda c: c.mean)
    assert best.method == "pcgrad"
    assert heat(cells, evidence.methods, "t")["data"]["values"][0]["text"][0] in "+−0"


def test_a_line_joins_only_configurations_that_nothing_else_beats() -> None:
    """Configurations of a sweep differ in learning rate too: a bad one is a point, and never a corner of a line."""
    evidence = study(configs=4)
    worse = {r.trial for r in evidence.runs if r.phase == "tune" and (r.method, r.config_index) == ("ls", 1)}
    spoilt = replace(
        evidence,
        runs=tuple(
            replace(r, values={k: v * 2 for k, v in r.values.items()}) if r.trial in worse else r for r in evidence.runs
        ),
    )
    points = [p for p in tradeoffs(spoilt, ["ls"])[0].points if p.kind in ("tried", "front")]
    worst = max(points, key=lambda p: sum(p.values))
    assert worst.kind == "tried"
    front = [p for p in points if p.kind == "front"]
    assert front
    assert not any(a.values[0] < b.values[0] and a.values[1] < b.values[1] for a in points for b in front)
    layers = pareto(tradeoffs(spoilt, ["ls"])[0], spoilt.methods, "t")["layer"]
    joined = [x for x in layers if x["mark"]["type"] == "line"]
    assert [x["transform"][0]["filter"] for x in joined] == ["datum.kind == 'front'", "datum.kind == 'weight'"]


def test_a_declared_sweep_is_joined_in_the_order_of_its_weights() -> None:
    points = tradeoffs(study(), [], [("mgda", "ls", "pcgrad")])[0].points
    assert [p.method for p in points if p.kind == "weight"] == ["mgda", "ls", "pcgrad"]
    assert not [p for p in points if p.kind in ("tried", "front")]


def test_profiles_start_below_one_where_runs_failed() -> None:
    fates = {("mgda", "digits", s): "diverged" for s in (0, 1)}
    scores = [r for r in run_scores(study(fates=fates)) if r.method == "mgda"]
    curve = profile(scores)
    assert len(curve) == 8
    assert curve[0][1] == pytest.approx(0.8)
    assert curve[-1][1] == pytest.approx(0.1)


def test_expected_best_is_the_mean_over_all_draws() -> None:
    scores = [0.3, 1.5, -2.0, 0.9, 0.1, 2.2]
    for k, found in enumerate(expected_best(scores), 1):
        draws = [max(c) for c in combinations(scores, k)]
        assert found == pytest.approx(sum(draws) / len(draws))
    with pytest.raises(ValueError, match="finite"):
        expected_best([float("nan")])


def test_ranks_are_drawn_for_five_datasets_and_not_for_four() -> None:
    few = simulate(Design(effects={"ls": 0.0, "pcgrad": 9.0, "mgda": -9.0}, datasets=tuple("abcd")), 0)
    many = simulate(Design(effects={"ls": 0.0, "pcgrad": 9.0, "mgda": -9.0}, datasets=tuple("abcdef")), 0)
    assert dataset_ranks(few) is None
    found = dataset_ranks(many)
    assert found
    assert [m for m, _ in found.ranks] == ["pcgrad", "ls", "mgda"]
    assert found.groups == (("pcgrad", "ls"), ("ls", "mgda"))  # 1 apart each; the critical difference is 1.35
    assert "descriptive" in page(many, ()).lower()
    assert '<section id="ranks"' not in page(few, ())


def test_published_numbers_stand_beside_and_change_no_verdict() -> None:
    evidence = study()
    rows = (External(source="A paper", dataset="digits", method="pcgrad", task="left", metric="error", value=1e9),)
    beside = replace(evidence, external=rows)
    assert [v.to_json() for v in judge_evidence(evidence, [CLAIM])] == [
        v.to_json() for v in judge_evidence(beside, [CLAIM])
    ]
    assert leaderboard(beside) == leaderboard(evidence)
    assert "Part of no test" in rendered(beside)


def test_a_card_names_the_correction_of_its_family(tmp_path: Path) -> None:
    for correction, word in (("holm", "Holm"), ("max_t", "max-T")):
        both = tuple(replace(CLAIM, id=i, correction=correction) for i in ("c", "d"))  # type: ignore[arg-type]
        made = of_evidence(simulate(Design(effects={"ls": 0.0, "pcgrad": 3.0}), 0, both), both)
        assert made.html.count(f"<dt>p, {word}</dt>") == 2
        assert f"{word} p" in made.html
        export(made, tmp_path, ["latex"])
        assert f"the family ({word})" in (tmp_path / "claims.tex").read_text()


def test_every_pair_names_its_trials() -> None:
    evidence = study()
    html = rendered(evidence)
    finals = [r for r in evidence.phase("final") if r.method in ("pcgrad", "ls")]
    assert all(html.count(r.trial[:12]) >= 2 for r in finals)  # in the claim's pairs and in the provenance


def test_figures_are_kept_as_data(tmp_path: Path) -> None:
    made = of_evidence(study(), [CLAIM])
    paths = made.write(tmp_path / "r.html", interactive=True)
    assert [p.name for p in paths] == ["r.html", "r.figures.json", "r.interactive.html"]
    kept = json.loads(paths[1].read_text())["figures"]
    assert [f["name"] for f in kept] == [f.name for f in made.figures]
    assert all(f["spec"]["$schema"].startswith("https://vega.github.io/schema/vega-lite/") for f in kept)
    before = [(p.read_bytes(), p.stat().st_mtime_ns) for p in paths]
    of_evidence(study(), [CLAIM]).write(tmp_path / "r.html", interactive=True)
    assert [(p.read_bytes(), p.stat().st_mtime_ns) for p in paths] == before


def test_exports_are_files_for_papers_and_the_same_bytes_again(tmp_path: Path) -> None:
    made = of_evidence(study(fates={("mgda", "waves", 1): "diverged"}), [CLAIM])
    short = replace(made, figures=made.figures[:1])
    first = export(short, tmp_path / "a")
    again = export(short, tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    kinds = {p.suffix: p.read_bytes() for p in first}
    assert kinds[".png"].startswith(b"\x89PNG")
    assert kinds[".pdf"].startswith(b"%PDF")
    assert kinds[".svg"].startswith(b"<svg")
    board = (tmp_path / "a" / "leaderboard.tex").read_text()
    assert "\\toprule" in board
    assert "$^\\dagger$1" in board
    assert board.count("\\textbf{") == sum(e.separated is False for e in leaderboard(made.evidence).entries)
    assert "supported" in (tmp_path / "a" / "claims.csv").read_text()
    assert "| c |" in (tmp_path / "a" / "claims.md").read_text().replace("  ", " ")


def test_a_pdf_is_the_same_bytes_again_with_a_second_font_and_is_a_pdf_still(tmp_path: Path) -> None:
    """A dataset whose name the first font lacks; vl-convert orders fonts anew in every call."""
    made = of_evidence(study(datasets=("digits", "⟶ waves ≈")), [CLAIM])
    one = replace(made, figures=made.figures[:1])
    found = [export(one, tmp_path / f"{i}", ["pdf"])[0].read_bytes() for i in range(6)]
    assert len(set(found)) == 1
    pdf = found[0]
    assert len(set(re.findall(rb"/BaseFont /\w{6}\+(\w+)", pdf))) >= 2
    table = int(re.findall(rb"startxref\s(\d+)", pdf)[0])
    assert pdf[table:].startswith(b"xref\n")
    offsets = [int(x) for x in re.findall(rb"(\d{10}) 00000 n", pdf[table:])]
    assert [pdf[at : pdf.index(b" ", at)] for at in offsets] == [b"%d" % (i + 1) for i in range(len(offsets))]
    assert set(map(int, re.findall(rb"(\d+) 0 R", pdf[table:]))) <= set(range(1, len(offsets) + 1))


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
