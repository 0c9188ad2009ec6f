"""What a trial's key depends on, and what it must not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from mtlfleet import declarations, registry
from mtlfleet.plan import Cell, Study, Trial

Write = Callable[..., Path]


def keys(study: Study) -> set[str]:
    finals = study.final_trials(dict.fromkeys(study.cells(), 0))
    return {t.key for t in (*study.tune_trials(), *finals)}


def plain(text: str) -> dict[str, object]:
    loaded = YAML(typ="safe").load(text)
    assert isinstance(loaded, dict)
    return loaded


def shuffled(value: object, draw: Callable[[list[str]], list[str]]) -> object:
    """The same data with the keys of every map in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw(list(value))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_order_of_entries_changes_no_key(study: Write, data: st.DataObject) -> None:
    first = Study.load(study())
    other = shuffled(plain(study().read_text()), lambda names: data.draw(st.permutations(names)))
    with Path("other.yaml").open("w") as file:
        YAML(typ="safe").dump(other, file)
    second = Study.load("other.yaml")
    assert keys(second) == keys(first) and second.sha256 == first.sha256


SITE = {
    "label": ('label: "CAGrad"', 'label: "Ours"'),
    "title": ("methods:", "title: Another\nmethods:"),
    "storage": ("claims:", "storage: {root: /somewhere/else}\nclaims:"),
    "report": ("claims:", "report: {title: Another}\nclaims:"),
    "resources": ("claims:", "resources: {cpus_per_worker: 2, gpus_per_worker: 0.5, max_concurrent: 3}\nclaims:"),
    "a default written out": ("params: {c: 0.4}", "params: {c: 0.4, rescale: 0}"),
    "a whole number for a real one": ("lr: 1e-3", "lr: 0.001"),
    "default seeds style": ("seeds: {count: 8, base: 1}", "seeds: [1, 2, 3, 4, 5, 6, 7, 8]"),
}


@pytest.mark.parametrize("name", SITE)
def test_labels_and_site_settings_change_nothing(name: str, study: Write) -> None:
    first, second = Study.load(study()), Study.load(study(SITE[name], name="other.yaml"))
    assert keys(second) == keys(first) and second.sha256 == first.sha256


SCIENCE = {
    "hyper-parameter": ("{c: 0.4}", "{c: 0.3}"),
    "dataset parameter": ("params: {tasks: 2}", "params: {tasks: 2, noise: 0.2}"),
    "architecture": ("backbone: mlp", "backbone: mlp, width: 32"),
    "recipe": ("steps: 300", "steps: 301"),
    "observed steps": ("steps: 300", "steps: 300, geometry_every: 50"),
    "workers": ("claims:", "resources: {workers: 2}\nclaims:"),
    "seeds": ("base: 1", "base: 2"),
    "space": ("1e-2]", "2e-2]"),
    "tuning seeds": ("seeds: [901]", "seeds: [902]"),
}


@pytest.mark.parametrize("name", SCIENCE)
def test_science_changes_keys(name: str, study: Write) -> None:
    first, second = Study.load(study()), Study.load(study(SCIENCE[name], name="other.yaml"))
    assert keys(second) != keys(first) and second.sha256 != first.sha256


def test_claims_are_science_of_the_study_but_not_of_its_runs(study: Write) -> None:
    first, second = Study.load(study()), Study.load(study(("margin: 0.5", "margin: 0.6"), name="other.yaml"))
    assert keys(second) == keys(first) and second.sha256 != first.sha256


PLUGIN = """\
from dataclasses import dataclass
from mtlfleet.methods.base import LossWeighting, method

@method("tilt")
@dataclass(frozen=True)
class Tilt(LossWeighting):
    c: float = {c}
"""
TILT = (("methods:", "plugins: [./tilt.py]\nmethods:"), ("use: cagrad\n    params: {c: 0.4}", "use: tilt"))


def test_a_changed_default_and_a_changed_plugin_change_keys(study: Write) -> None:
    Path("tilt.py").write_text(PLUGIN.format(c=0.4))
    before = {t.method.name: t.key for t in Study.load(study(*TILT)).tune_trials()}
    declarations.read_file.cache_clear()
    Path("tilt.py").write_text(PLUGIN.format(c=0.5))
    after = {t.method.name: t.key for t in Study.load(study(*TILT)).tune_trials()}
    declarations.read_file.cache_clear()
    Path("tilt.py").write_text(PLUGIN.format(c=0.5) + "# another word\n")
    reworded = {t.method.name: t.key for t in Study.load(study(*TILT)).tune_trials()}
    assert len({before["cagrad"], after["cagrad"], reworded["cagrad"]}) == 3
    assert before["ls"] == after["ls"] == reworded["ls"]


def test_presets_are_their_values(study: Write) -> None:
    nash = Study.load(study(("use: cagrad\n    params: {c: 0.4}", "use: cagrad@nash")))
    values = registry.find("method", "cagrad").presets["nash"]
    written = ", ".join(f"{k}: {v}" for k, v in values.items())
    spelled = Study.load(study(("{c: 0.4}", f"{{{written}}}"), name="other.yaml"))
    assert keys(nash) == keys(spelled)


DATASET = """\
from dataclasses import dataclass
from mtlfleet.datasets.base import Dataset, Facts, Task, dataset

@dataset("mine")
@dataclass(frozen=True)
class Mine(Dataset):
    root: str = "/data"
    def facts(self):
        tasks = (Task("a", 1, "regression", ("rmse",), 1.0), Task("b", 1, "regression", ("rmse",), 1.0))
        return Facts(tasks, 100, (4,), "sha256:abc")
    def split(self, split):
        raise NotImplementedError
"""


def test_where_the_data_lies_changes_no_key(study: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(DATASET)
    mine = ("use: synthetic_regression, params: {tasks: 2}", 'use: mine, params: {root: "${env:DATA}/x"}')
    path = study(("methods:", "plugins: [./mine.py]\nmethods:"), mine)
    monkeypatch.setenv("DATA", "/here")
    first = Study.load(path)
    monkeypatch.setenv("DATA", "/there")
    second = Study.load(path)
    assert first.datasets[0].params["root"] == "/here/x" and second.datasets[0].params["root"] == "/there/x"
    assert keys(first) == keys(second) and first.sha256 == second.sha256
    assert "/here" not in str(first.spec)


def test_a_trial_survives_its_json(study: Write) -> None:
    for trial in Study.load(study()).tune_trials():
        assert Trial.from_json(trial.to_json()).key == trial.key


def test_six_thousand_trials_are_keyed_quickly(study: Write) -> None:
    """CPU time, not wall time; the bound is ten times what was measured on a slow machine."""
    loaded = Study.load(study(("count: 8, base: 1", "count: 1500, base: 1000")))
    trials = loaded.final_trials(dict.fromkeys(loaded.cells(), 0))
    before = time.process_time()
    assert len({t.key for t in trials}) == len(trials) == 6000
    assert time.process_time() - before < 10


def test_cells_configurations_and_trials(study: Write) -> None:
    loaded = Study.load(study())
    toy = [c for c in loaded.cells() if c.dataset == "toy"]
    assert [(c.method, c.task) for c in toy] == [("stl", "task_0"), ("stl", "task_1"), ("ls", "*"), ("cagrad", "*")]
    assert {len(loaded.configs(c)) for c in toy} == {4}
    rates = {tuple(c["train.lr"] for c in loaded.configs(cell)) for cell in toy}
    assert len(rates) == 1, "every method is tuned on the same learning rates"
    tune = loaded.tune_trials()
    assert len(tune) == 4 * 4 and [t.method.name for t in tune[:4]] == ["stl", "stl", "ls", "cagrad"]
    assert all(t.phase == "tune" and t.seed == 901 for t in tune)
    chosen = {Cell("ls", "toy", "mlp"): 2}
    finals = loaded.final_trials(chosen)
    assert [t.seed for t in finals] == list(range(1, 9)) and {t.config_index for t in finals} == {2}
    assert {t.method.params["weights"] for t in finals} == {loaded.configs(toy[2])[2]["method.weights"]}


def test_without_a_search_every_cell_has_its_one_configuration(study: Write) -> None:
    search = "search:\n  space: {train.lr: {log_uniform: [1e-3, 1e-2]}}\n  trials_per_method: 4\n  seeds: [901]\n"
    loaded = Study.load(study((search, ""), (", space: {weights: {simplex: {tasks: 2, points: 3}}}", "")))
    assert loaded.tune_trials() == () and {loaded.configs(c) for c in ()} == set()
    assert all(loaded.configs(c) == ({},) for c in loaded.cells())
    assert len(loaded.final_trials({})) == 4 * 8


def test_exclude_include_and_overrides(study: Write) -> None:
    rules = (
        "exclude: [{method: stl}]\ninclude: [{method: stl, dataset: toy}]\n"
        "overrides: [{when: {dataset: toy}, set: {train.epochs: 2, architecture.width: 8}},"
        " {when: {method: cagrad}, set: {method.rescale: 1}}]\nclaims:"
    )
    loaded = Study.load(study(("claims:", rules)))
    trials = loaded.tune_trials()
    assert {t.method.name for t in trials} == {"stl", "ls", "cagrad"}
    assert {(t.recipe.steps, t.recipe.epochs) for t in trials} == {(None, 2.0)}
    assert {t.architecture.params["width"] for t in trials} == {8}
    assert {t.method.params["rescale"] for t in trials if t.method.name == "cagrad"} == {1}


def test_the_spec_is_plain_json_without_places(study: Write) -> None:
    import json

    loaded = Study.load(study())
    assert json.loads(json.dumps(loaded.spec)) == loaded.spec
    assert str(loaded.root) not in json.dumps(loaded.spec) and "CAGrad" not in json.dumps(loaded.spec)
    assert loaded.root == Path.cwd() / "runs" / "toy-study"
