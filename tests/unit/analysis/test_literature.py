"""The papers' claims: each file is sound, each claim stands in a study, and its own words win over the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtlfleet.plan import Study, check, literature
from mtlfleet.plan.claims import Claim
from mtlfleet.plan.claimschema import ClaimEntry
from mtlfleet.registry import builtin

ROOT = Path(__file__).parents[3]
METHODS = {**builtin("method")}
STUDY = """\
schema: mtlfleet/study/1
study: lit
methods: {{{methods}}}
datasets: {{toy: {{use: synthetic_regression, params: {{tasks: 2}}}}}}
architectures: {{mlp: {{use: hps, params: {{backbone: mlp}}}}}}
seeds: {{count: 8, base: 1}}
train: {{optimizer: {optimizer}, lr: 1e-3, global_batch: 64, steps: 30}}
claims:
  - {claim}
"""


def members(entry: dict[str, Any]) -> list[str]:
    baseline = entry["baseline"]
    return [entry["method"], *(baseline.get("best_of") or baseline.get("sweep") or [baseline["method"]])]


def load(folder: Path, claim: str, methods: dict[str, str]) -> Study:
    listed = ", ".join(f"{name}: {{use: {use}}}" for name, use in methods.items())
    optimizer = "sgd" if "adatask" in methods.values() else "adam"
    (folder / "lit.yaml").write_text(STUDY.format(methods=listed, claim=claim, optimizer=optimizer))
    return Study.load(folder / "lit.yaml")


def test_the_folder_of_the_repository_is_the_one_that_is_read() -> None:
    assert literature.folder().resolve() == ROOT / "analysis" / "claims"
    wanted = "xin2022 kurin2022 navon2022 lin2022 yang2023 sener2018 guo2021 tian2022 song2022 pascal2021"
    assert set(wanted.split()) <= set(literature.papers())


@pytest.mark.parametrize("name", literature.papers())
def test_a_papers_file_is_sound(name: str) -> None:
    paper = literature.paper(name)
    assert set(paper) - {"needs"} == literature.KEYS
    assert {"authors", "title", "venue"} <= set(paper["source"])
    assert paper["source"]["venue"][-4:].isdigit()
    assert len(paper["asserts"]) > 60
    assert "margin is ours" in paper["departures"] or "margin, the equal preference" in paper["departures"]
    for claim, entry in paper["claims"].items():
        made = ClaimEntry.model_validate(literature.entry(f"{name}/{claim}", {}))
        assert made.id == f"{name}_{claim}"
        assert {"question", "method", "baseline", "estimand", "alternative", "margin", "scope", "family"} == set(entry)
        unknown = [m for m in members(entry) if m not in METHODS]
        assert set(unknown) <= set(paper.get("needs", [])), f"{unknown} are neither shipped nor declared as needed"
    needed = {m for entry in paper["claims"].values() for m in members(entry)}
    assert set(paper.get("needs", [])) <= needed - set(METHODS)


SHIPPED = [name for name in literature.names() if all(m in METHODS for m in members(literature.entry(name, {})))]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_claim_stands_in_a_study_that_has_its_methods(name: str, tmp_path: Path) -> None:
    entry = literature.entry(name, {})
    methods = {m: m for m in dict.fromkeys([*members(entry), "stl"])}
    (claim,) = load(tmp_path, f"{{use: {name}}}", methods).claims
    assert isinstance(claim, Claim)
    assert (claim.id, claim.use) == (name.replace("/", "_"), name)
    assert [claim.method, *claim.baseline.best_of] == members(entry)


def test_the_studys_own_words_win_and_its_ids_stand_in(tmp_path: Path) -> None:
    methods = {"ours": "pcgrad", "plain": "sum", "stl": "stl"}
    study = load(tmp_path, "{use: kurin2022/pcgrad, id: k, margin: 0.25, alpha: 0.01}", methods)
    (claim,) = study.claims
    assert (claim.id, claim.margin, claim.alpha, claim.alternative) == ("k", 0.25, 0.01, "no_better_than")
    assert (claim.method, claim.baseline.best_of) == ("ours", ("plain",))
    other = load(tmp_path, "{use: kurin2022/pcgrad, id: k, margin: 0.5, alpha: 0.01}", methods).claims[0]
    assert claim.registration(study.sha256) != other.registration(study.sha256)


def test_two_methods_of_one_kind_leave_the_papers_name_open(tmp_path: Path) -> None:
    methods = {"a": "cagrad", "b": "cagrad@nash", "sum": "sum", "stl": "stl"}
    listed = ", ".join(f"{name}: {{use: {use}}}" for name, use in methods.items())
    path = tmp_path / "lit.yaml"
    path.write_text(STUDY.format(methods=listed, claim="{use: liu2021/beats_sum}", optimizer="adam"))
    found = check(path)
    assert [d.code for d in found.errors] == ["E202"]
    path.write_text(STUDY.format(methods=listed, claim="{use: liu2021/beats_sum, method: b}", optimizer="adam"))
    assert check(path).errors == ()
