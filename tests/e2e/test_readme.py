"""The README's method works as printed, and its study is the shipped one in short."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from mtlfleet.plan import Study, check
from mtlfleet.registry import Catalogue
from mtlfleet.testing import method_checks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    found = [b for b in re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if containing in b]
    assert len(found) == 1, f"{len(found)} {language} blocks contain {containing!r}"
    return found[0]


def test_your_own_method_passes_the_contract_and_validates_in_a_study(tmp_path: Path) -> None:
    code = block("python", "@method")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    (tmp_path / "tilt.py").write_text(code)
    catalogue = Catalogue(("./tilt.py",), tmp_path)
    checks = method_checks("tilt", catalogue)
    assert len(checks) > 5
    for check_ in checks:
        check_()
    study = tmp_path / "own.yaml"
    study.write_text(
        "schema: mtlfleet/study/1\nstudy: own\nplugins: [./tilt.py]\n"
        "methods: {sum: {}, tilt: {params: {t: 2.0}}}\ndatasets: {digits: {use: multidigits}}\n"
        "architectures: {mlp: {use: hps}}\nseeds: [1]\ntrain: {steps: 5}\n"
    )
    assert check(study).errors == ()
    planned = Study.load(study)
    tilted = next(t for t in planned.final_trials(dict.fromkeys(planned.cells(), 0)) if t.method.name == "tilt")
    assert tilted.method.fingerprint, "the plug-in's source is part of the trial's key"
    weights = catalogue.load("method", "tilt")(t=2.0).weigh(torch.tensor([1.0, 2.0], dtype=torch.float64), None, None)
    assert weights.weights[1] > weights.weights[0]


def test_the_study_excerpt_is_valid_yaml_of_the_shipped_study(tmp_path: Path) -> None:
    excerpt = block("yaml", "methods:")
    path = tmp_path / "excerpt.yaml"
    path.write_text(
        "schema: mtlfleet/study/1\nstudy: excerpt\narchitectures: {mlp: {use: hps}}\ntrain: {steps: 5}\n" + excerpt
    )
    assert check(path).errors == ()
    shipped = Study.load(ROOT / "jobs" / "studies" / "quickstart.yaml")
    short = Study.load(path)
    assert {m.name for m in short.methods} <= {m.name for m in shipped.methods}
    assert short.seeds == shipped.seeds
    assert short.trials_per_method == shipped.trials_per_method
    assert short.claims[0].margin == shipped.claims[0].margin
