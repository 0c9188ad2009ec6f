"""Somebody else's methods, from a file beside the study and from a package, in a study that really trains."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fleet

HERE = Path(__file__).parent
TILT = '''
from dataclasses import dataclass

from mtlfleet.methods.base import Decision, LossWeighting, Weights, method


@method("tilt")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt(LossWeighting[None]):
    """Weights that grow with the loss.

    Properties  permutation
    """

    power: float = 1.0

    def weigh(self, losses, state, at):
        return Decision(Weights(losses**self.power), None)
'''
PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "mylab"
version = "1.0"
[project.entry-points."mtlfleet.plugins"]
methods = "mylab.lifted"
"""
STUDY = """\
schema: mtlfleet/study/1
study: tiny
plugins: [./tilt.py, mylab.view_methods]
methods: {sum: {}, tilt: {}, flat: {use: tilt, params: {power: 0.0}}, two_batches: {}, lifted: {}}
datasets: {synth: {use: synthetic_regression, params: {train: 96, val: 32, test: 32, dim: 8}}}
architectures: {mlp: {use: hps, params: {width: 8}}}
seeds: [1]
train: {lr: 0.01, global_batch: 32, steps: 6, eval_every: 3, log_every: 2}
"""


def run(*words: str | Path, packages: Path) -> subprocess.CompletedProcess[str]:
    environment = {**fleet.environment(), "PYTHONPATH": f"{fleet.environment().get('PYTHONPATH', '')}:{packages}"}
    return subprocess.run(
        fleet.command(*words), capture_output=True, text=True, env=environment, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the study, where the package lies)"""
    folder = tmp_path_factory.mktemp("plugins")
    source, site = folder / "source", folder / "elsewhere"
    package = source / "mylab"
    package.mkdir(parents=True)
    (source / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").write_text("")
    (package / "lifted.py").write_text(TILT.replace("tilt", "lifted").replace("losses**self.power", "losses + 1.0"))
    shutil.copy(HERE.parent / "distributed" / "view_methods.py", package)
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), str(source)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True, timeout=300)
    shutil.rmtree(source)  # what is used is what was installed
    study = fleet.write(folder / "study", STUDY)
    study.with_name("tilt.py").write_text(TILT)
    done = run("launch", study, packages=site)
    assert done.returncode == 0, done.stdout + done.stderr
    return study, site


def rows(launched: tuple[Path, Path], query: str) -> list[dict[str, object]]:
    done = run("sql", launched[0], query, "--format", "json", packages=launched[1])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return list(found if isinstance(found, list) else found["rows"])


def test_their_trials_end_with_test_metrics(launched: tuple[Path, Path]) -> None:
    found = rows(
        launched,
        "select method, any_value(state) as state, count(*) as n from trial_summary join final_metrics "
        "using (study_id, trial_id, method) where split = 'test' group by method order by method",
    )
    assert [(row["method"], row["state"]) for row in found] == [
        (name, "done") for name in ("flat", "lifted", "sum", "tilt", "two_batches")
    ]
    assert len({row["n"] for row in found}) == 1
    weights = rows(
        launched,
        "select weights, losses from task_gradients join trials using (study_id, trial_id) where method = 'tilt'",
    )
    assert weights
    for row in weights:
        assert row["weights"] == pytest.approx(row["losses"], rel=1e-6)


def test_an_installed_method_needs_no_other_file(launched: tuple[Path, Path]) -> None:
    """One file in a package with an entry point: the study names it, `methods` lists, shows and checks it."""
    study, site = launched
    assert "lifted" not in study.read_text().partition("methods:")[0]  # not among the study's plug-ins
    listed = json.loads(run("methods", "list", "--json", packages=site).stdout)["methods"]
    assert {"name": "lifted", "module": "mylab.lifted"}.items() <= next(
        m for m in listed if m["name"] == "lifted"
    ).items()
    shown = run("methods", "show", "lifted", packages=site)
    assert shown.returncode == 0 and "Weights that grow with the loss." in shown.stdout
    checked = json.loads(run("methods", "check", "lifted", "--json", packages=site).stdout)
    assert checked["kept"] and len(checked["contracts"]) == 9
    # one that takes two batches a step keeps its contracts too, with batches that differ
    several = json.loads(run("methods", "check", "mylab.view_methods", "--json", packages=site).stdout)
    assert several["kept"] and "two_batches" in several["methods"]
    assert run("methods", "show", "lifted", packages=site / "nowhere").returncode != 0


def test_a_plugin_that_does_what_ours_does_is_found_out(launched: tuple[Path, Path]) -> None:
    status = json.loads(run("status", launched[0], "--json", packages=launched[1]).stdout)
    assert [(t["method"], t["twin"]) for t in status["twins"]] == [("flat", "sum")]
    page = (launched[0].parent / "runs" / "tiny" / "report.html").read_text()
    assert "<li>flat and sum on synth: all 1 final run compared</li>" in page


def test_a_changed_plugin_is_another_trial(launched: tuple[Path, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(launched[0].parent, tmp_path / "copy")
    (copy / "tilt.py").write_text(TILT.replace("losses**self.power", "2.0 * losses**self.power"))
    planned = run("launch", copy / "tiny.yaml", "--dry-run", packages=launched[1]).stdout
    assert "2 trials would run now" in planned
    assert "tilt/synth" in planned
    assert "flat/synth" in planned
    assert "two_batches/synth" not in planned
