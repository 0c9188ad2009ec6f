"""Two methods that do the same are found by the numbers they left, in the store, in `status` and in the report."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

import short_trials as trials

from mtlfleet.cli import status
from mtlfleet.plan.trial import Spec, Trial
from mtlfleet.store import Store, write_document
from mtlfleet_analysis import report
from mtlfleet_analysis.loading import asked_of_store

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sum": ("sum", {}),
    "ls": ("linear", {"weights": (0.5, 0.5)}),
    "tilted": ("linear", {"weights": (0.6, 0.4)}),
}


def named(name: str, seed: int, **recipe: Any) -> Trial:
    use, params = METHODS[name]
    found = trials.trial(steps=6, eval_every=3, keep="last", log_every=2, **recipe)
    spec = trials.spec("method", use, **params)
    return replace(found, method=Spec(name, use, spec.params), seed=seed)


def document(trial: Trial) -> dict[str, Any]:
    return {
        "trial_id": trial.id, "phase": trial.phase, "method": trial.method.name, "method_use": trial.method.use,
        "dataset": trial.dataset.name, "architecture": trial.architecture.name, "task": trial.task,
        "tasks": list(trial.tasks), "seed": trial.seed, "config_index": trial.config_index, "label": trial.label,
        "params": {}, "config": json.loads(trial.to_json()), "config_sha256": trial.key, "world_size": 1, "steps": 6,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods, two seeds, trained for six steps; one more run of `ls` at a learning rate of its own."""
    root = tmp_path_factory.mktemp("twins")
    cells = [named(name, seed) for seed in (1, 2) for name in METHODS]
    cells.append(named("ls", 3, lr=0.03))
    cells.append(named("sum", 3))
    for cell in cells:
        assert trials.finish(trials.start(root, cell)).state == "done"
    write_document(root, "study", "studies", [{"title": "twins", "spec": {}, "spec_sha256": "1"}])
    write_document(root, "study", "trials", [document(cell) for cell in cells])
    return root


def said(root: Path, *words: str) -> str:
    return CliRunner().invoke(status.command, [str(root), *words], catch_exceptions=False).stdout


PAIR = {"dataset": "synthetic_regression", "architecture": "hps", "method": "ls", "twin": "sum", "identical": 2}


def test_the_same_weights_under_two_names_are_twins(trained: Path) -> None:
    """Runs of another learning rate are not compared; other weights are no twin."""
    found = Store(trained).rows("SELECT * FROM twins")
    assert found == [{"study_id": "study", "phase": "final", **PAIR, "compared": 2}]


def test_status_names_them(trained: Path) -> None:
    assert json.loads(said(trained, "--json"))["twins"] == [{"phase": "final", **PAIR}]
    text = said(trained)
    assert "warning: `ls` and `sum` are twins on synthetic_regression, hps: bit-identical losses in all 2 final" in text
    assert "tilted` and" not in text


def test_the_report_names_them(trained: Path, tmp_path: Path) -> None:
    store = Store(trained)
    html = report.render(asked_of_store(store, "study"), store, tmp_path / "report.html").read_text()
    assert "<li>ls and sum on synthetic_regression: all 2 final runs compared</li>" in html
    assert html.count("<li>ls and") == 1


def test_one_bit_apart_is_not_a_twin(trained: Path, tmp_path: Path) -> None:
    """The same tilted run beside sum's: nothing is flagged, and pairs of which one run differs are not either."""
    rows = [document(named(name, seed)) for seed in (1, 2) for name in ("sum", "tilted")]
    other = tmp_path / "apart"
    (other / "segments").parent.mkdir()
    (other / "segments").symlink_to(trained / "segments")
    write_document(other, "study", "trials", rows)
    assert json.loads(said(other, "--json"))["twins"] == []
    mixed = [document(named("sum", 1)), document(named("sum", 2)), document(named("ls", 1))]
    mixed.append({**document(named("tilted", 2)), "method": "ls"})
    write_document(other, "study", "trials", mixed)
    assert json.loads(said(other, "--json"))["twins"] == []
    (row,) = Store(other).rows("SELECT identical, compared FROM twins")
    assert row == {"identical": 1, "compared": 2}
