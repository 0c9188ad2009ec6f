"""What ``init`` writes passes its check, and trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mtlfleet.cli import main

CHECK = {"method": "methods", "dataset": "datasets", "architecture": "architectures"}


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words), standalone_mode=True)
    return done.exit_code, done.output


@pytest.mark.parametrize("template", CHECK)
def test_a_plug_in_is_short_and_sound(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("init", "--template", template, "mine_new.py")
    assert code == 0 and f"mtlfleet {CHECK[template]} check mine_new.py" in said
    lines = Path("mine_new.py").read_text().splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120 and "NAME" not in "".join(lines)
    code, said = run(CHECK[template], "check", "mine_new.py")
    assert code == 0, said
    assert "mine_new" in said
    assert run("init", "--template", template, "mine_new.py")[0] == 2  # never written over


def test_check_finds_what_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("init", "--template", "dataset", "data.py")
    run("init", "--template", "architecture", "net.py")
    data, net = Path("data.py"), Path("net.py")
    data.write_text(data.read_text().replace("rows = _rows(params)[split]", "rows = _rows(params)[Split.TRAIN]"))
    net.write_text(net.read_text().replace("self.own[task](z)", "sum(own(z) for own in self.own.values())"))
    code, said = run("datasets", "check", "data.py")
    assert code == 3 and "a sample that is in train too" in said
    net.write_text(net.read_text().replace(".settle(input_shape)", ""))
    code, said = run("architectures", "check", "net.py")
    assert code == 3 and "roles() does not name every parameter" in said


def test_a_study_of_the_four_templates_is_valid_and_its_parts_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from mtlfleet.plan.study import Study
    from mtlfleet.train import Communicator, Site, run_trial

    monkeypatch.chdir(tmp_path)
    assert run("init")[0] == 0
    code, said = run("validate", "study.yaml")
    assert code == 0, said
    for template in CHECK:
        run("init", "--template", template)
    text = Path("study.yaml").read_text()
    text = text.replace(
        "study: study\n", "study: study\nplugins: [./my_method.py, ./my_dataset.py, ./my_architecture.py]\n"
    )
    text = text.replace("  pcgrad: {}", "  pcgrad: {}\n  my_method: {}")
    text = text.replace("{use: multidigits, params: {train: 2000}}", "{use: my_dataset}")
    text = text.replace("{use: hps, params: {backbone: mlp, width: 32, depth: 1}}", "{use: my_architecture}")
    Path("study.yaml").write_text(text)
    study = Study.load("study.yaml")
    cell = next(c for c in study.cells() if c.method == "my_method")
    trial = study.trial(cell, 0, 1, "final")
    short = replace(trial, recipe=replace(trial.recipe, steps=40, eval_every=20))
    site = Site(tmp_path / "runs", "study", plugins=study.plugins, base=tmp_path)
    progress = run_trial(short, site, Communicator())
    assert progress.state == "done" and progress.score > 0.2


@pytest.mark.parametrize("path", ["method.yaml", "9lives.py"])
def test_an_unusable_path_is_a_usage_error(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", "--template", "method", path)[0] == 2
