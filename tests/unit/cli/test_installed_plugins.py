"""Installed packages whose plug-ins cannot be read, or not imported, are told of: with their name and the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mtlfleet import declarations
from mtlfleet.cli import main

METHOD = '''{first}
from dataclasses import dataclass
from mtlfleet.methods.base import Decision, LossWeighting, Weights, method

@method("{name}")
@dataclass(frozen=True, kw_only=True)
class Method(LossWeighting[None]):
    """Weights that are the losses."""

    def weigh(self, losses, state, at):
        return Decision(Weights(losses), None)
'''
STUDY = """\
schema: mtlfleet/study/1
study: tiny
methods: {{sum: {{}}, {method}: {{}}}}
datasets: {{synth: {{use: synthetic_regression, params: {{train: 96, val: 32, test: 32, dim: 8}}}}}}
architectures: {{mlp: {{use: hps, params: {{width: 8}}}}}}
seeds: [1]
train: {{steps: 2, global_batch: 32}}
"""


def package(site: Path, name: str, files: dict[str, str]) -> None:
    """A package with its ``dist-info``, as an installer leaves it; one entry point for each file, and ``lost``."""
    (site / name).mkdir(parents=True)
    for file, text in {"__init__": "", **files}.items():
        (site / name / f"{file}.py").write_text(text)
    facts = site / f"{name}-1.5.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    points = [f"{file}_point = {name}.{file}" for file in (*files, "lost")]
    (facts / "entry_points.txt").write_text("\n".join(["[mtlfleet.plugins]", *points]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    where = tmp_path / "site"
    package(
        where,
        "brokenlab",
        {
            "fine": METHOD.format(first="", name="fine_one"),
            "torn": METHOD.format(first="def (", name="torn_one"),
            "needy": METHOD.format(first="import a_library_that_is_not_there", name="needy_one"),
        },
    )
    monkeypatch.syspath_prepend(str(where))
    declarations.installed.cache_clear()
    yield where
    declarations.installed.cache_clear()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def study(folder: Path, method: str) -> str:
    (folder / "tiny.yaml").write_text(STUDY.format(method=method))
    return str(folder / "tiny.yaml")


def test_a_list_warns_of_each_and_hides_nothing(site: Path) -> None:
    found = run("methods", "list", "--json")
    names = {entry["name"] for entry in json.loads(found.stdout)["methods"]}
    assert found.exit_code == 0 and {"fine_one", "needy_one", "mgda"} <= names and "torn_one" not in names
    missing, torn = sorted(found.stderr.splitlines())
    assert missing == (
        "warning: plug-in `lost_point` of the installed package brokenlab 1.5 (brokenlab.lost): "
        "plug-in module not found: brokenlab.lost"
    )
    assert "`torn_point` of the installed package brokenlab 1.5" in torn
    assert f"{site}/brokenlab/torn.py:1:5: not valid Python" in torn


def test_a_study_that_does_not_need_it_is_valid_with_a_warning(site: Path, tmp_path: Path) -> None:
    found = run("validate", study(tmp_path, "fine_one"), "--json")
    told = json.loads(found.stdout)
    assert found.exit_code == 0 and [d["code"] for d in told["diagnostics"]] == ["W506", "W506"]
    assert any("brokenlab/torn.py:1:5: not valid Python" in d["message"] for d in told["diagnostics"])


def test_a_study_that_names_what_it_declares_is_refused_with_the_reason(site: Path, tmp_path: Path) -> None:
    found = run("validate", study(tmp_path, "torn_one"))
    assert found.exit_code == 3 and "error[E301]: no method is called `torn_one`" in found.stderr
    assert "note: cannot be read: plug-in `torn_point` of the installed package brokenlab 1.5" in found.stderr
    asked = run("methods", "show", "torn_one")
    assert asked.exit_code == 3 and "not valid Python" in asked.stderr


def test_one_that_cannot_be_imported_stops_a_launch_before_it_starts(site: Path, tmp_path: Path) -> None:
    wanted = study(tmp_path, "needy_one")
    assert run("validate", wanted).exit_code == 0  # reads, and runs nobody's code
    found = run("launch", wanted, "--progress", "none")
    assert found.exit_code == 3 and "starting Ray" not in found.output
    assert "method `needy_one` could not be imported from brokenlab.needy: ModuleNotFoundError" in found.stderr
    assert "a_library_that_is_not_there" in found.stderr
