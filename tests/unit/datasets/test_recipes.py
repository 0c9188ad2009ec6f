"""The published recipes in jobs/studies: valid on data in the true format, and two steps of a trial run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import folder_samples
import short_trials

from mtlfleet import registry
from mtlfleet.datasets.base import Split
from mtlfleet.plan.study import Study
from mtlfleet.plan.trial import Recipe, Spec, Trial
from mtlfleet.train import Communicator, Site, TrialRun, run_trial

STUDIES = Path(__file__).parents[3] / "jobs" / "studies"
NARROW = {"width": 8}  # the recipe's network, thinner: what is tested is that the parts fit


@pytest.mark.parametrize("recipe", folder_samples.RECIPES)
def test_a_recipe_is_valid_and_takes_two_steps(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, name in folder_samples.RECIPES[recipe].items():
        folder_samples.prepare_for_recipe(variable, name, tmp_path / variable)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    study = Study.load(STUDIES / f"{recipe}.yaml")
    assert not study.warnings.errors
    wanted = "pcgrad" if "pcgrad" in {m.name for m in study.methods} else "ls"
    cell = next(c for c in study.cells() if c.method == wanted)
    trial = study.trial(cell, 0, 1, "final")
    thin = {**trial.architecture.params, **NARROW}
    short = replace(
        trial,
        architecture=Spec(trial.architecture.name, trial.architecture.use, thin),
        recipe=replace(trial.recipe, steps=2, epochs=None, global_batch=min(4, trial.recipe.global_batch), log_every=1),
    )
    progress = run_trial(short, Site(tmp_path / "runs", "recipes"), Communicator())
    assert progress.state == "done" and progress.step == 2


def test_a_recipe_without_its_data_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtlfleet.errors import StudyInvalid
    from mtlfleet.plan.problems import render

    monkeypatch.setenv("NYUV2", str(tmp_path))
    with pytest.raises(StudyInvalid) as refused:
        Study.load(STUDIES / "nyuv2_mtan.yaml")
    assert f"mtlfleet datasets prepare nyuv2 --root {tmp_path}" in render(refused.value.findings)


def test_a_trial_sees_augmented_images_in_training_alone(tmp_path: Path) -> None:
    params = {"root": str(tmp_path / "data"), **folder_samples.nyuv2(tmp_path / "data"), "augmented": True}
    data = registry.Catalogue().load("dataset", "nyuv2")(**params)
    data.prepare()
    plain = replace(data, augmented=False)
    assert data.facts().fingerprint != plain.facts().fingerprint  # other training: other keys
    trial = Trial(
        method=short_trials.spec("method", "linear"),
        dataset=short_trials.spec("dataset", "nyuv2", **params),
        architecture=short_trials.spec("architecture", "hps", backbone="segnet", width=8),
        strategy=short_trials.spec("strategy", "joint"),
        recipe=Recipe(steps=4, global_batch=4),
        tasks=("segmentation", "depth", "normals"),
        seed=1,
        phase="final",
    )
    run = TrialRun(trial, Site(tmp_path / "runs", "recipes"), Communicator())
    run.begin()
    originals = plain.split(Split.TRAIN)
    shown = [run.feed.at(step).batch for step in range(2)]
    changed = [not np.array_equal(b.inputs, originals.fetch(b.index.numpy()).inputs) for b in shown]
    assert any(changed)
    held = data.split(Split.VAL).fetch(np.arange(2)).inputs
    np.testing.assert_array_equal(held, plain.split(Split.VAL).fetch(np.arange(2)).inputs)
    run.pause()
