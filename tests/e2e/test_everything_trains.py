"""Every dataset, every architecture and every published recipe's network through one `mtlfleet launch`.

Folders are written by the test in their true formats. What is asked of the store: each trial is done, and the
loss it trains on fell.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "datasets"))

import fleet
import folder_samples

from mtlfleet import registry

STUDIES = Path(__file__).parents[2] / "jobs" / "studies"
DIGITS: dict[str, dict[str, Any]] = {  # bundled: parameters of the data, and of a small network for them
    "multidigits": {"train": 64, "val": 16, "test": 16},
    "densedigits": {"train": 48, "val": 8, "test": 8},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "multidigits": {"backbone": "cnn", "width": 16, "backbone_params": {"channels": 6}},
    "densedigits": {"backbone": "segnet", "width": 8, "depth": 2, "head_hidden": 8},
    "digits_attr": {"backbone": "cnn", "width": 16, "backbone_params": {"channels": 6}},
    "breast_aux": {"width": 16},
    "diabetes_aux": {"width": 16},
    "synthetic_regression": {"width": 16},
    **folder_samples.NETWORKS,
    "celeba": {"backbone": "resnet", "width": 16, "depth": 18},
}
STEPS, EVERY = 48, 6
LONGER: dict[str, dict[str, Any]] = {  # all digits begin on a plateau; forty random attributes take a while to learn
    "multidigits": {"steps": 2 * STEPS, "eval_every": 2 * EVERY, "lr": 0.03, "global_batch": 32},
    "celeba": {"steps": 2 * STEPS, "eval_every": 2 * EVERY, "lr": 0.002},
}


class Grid:
    """A study's text, cell by cell."""

    def __init__(self) -> None:
        self.datasets: dict[str, Any] = {}
        self.architectures: dict[str, Any] = {}
        self.include: list[dict[str, str]] = []
        self.overrides: list[dict[str, Any]] = []

    def cell(self, method: str, dataset: str, architecture: str, train: dict[str, Any] | None = None) -> None:
        here = {"method": method, "dataset": dataset, "architecture": architecture}
        self.include.append(here)
        if train:
            self.overrides.append({"when": here, "set": {f"train.{name}": value for name, value in train.items()}})

    def launch(self, folder: Path) -> tuple[Path, dict[str, Any]]:
        """(study, what the command said); every cell once, one rank, one warm gang."""
        text = {
            "schema": "mtlfleet/study/1", "study": "everything",
            "methods": {"ls": {"use": "linear"}, "pcgrad": {}},
            "datasets": self.datasets, "architectures": self.architectures, "seeds": [1],
            "train": {"lr": 0.01, "global_batch": 16, "steps": STEPS, "eval_every": EVERY, "keep": "last"},
            "exclude": [{"method": "ls"}, {"method": "pcgrad"}],
            "include": self.include, "overrides": self.overrides,
        }  # fmt: skip
        path = folder / "everything.yaml"
        path.write_text(json.dumps(text, indent=1))
        done = fleet.run("launch", path, "--json", timeout=1500)
        assert done.returncode == 0, done.stdout + done.stderr
        return path, json.loads(done.stdout)


FELL = """
with train as (
    select trial_id, step, sum(value) as loss, count(*) as tasks from metrics
    where split = 'train' and metric = 'loss' group by all
)
select t.method, t.dataset, t.architecture, s.state, max(l.tasks) as tasks, count(l.step) as points,
       arg_min(l.loss, l.step) as first, arg_max(l.loss, l.step) as last, any_value(s.train_s) as seconds
from trials t join trial_summary s using (study_id, trial_id) left join train l using (trial_id)
group by all order by all
"""


def rows(study: Path) -> list[dict[str, Any]]:
    done = fleet.run("sql", study, FELL, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return list(found if isinstance(found, list) else found["rows"])


def check(study: Path, grid: Grid) -> list[dict[str, Any]]:
    """Every cell of the grid is done, and its loss fell unless it is a recipe's, of two steps. Prints each."""
    found = rows(study)
    for row in found:
        cell = f"{row['method']:7} {row['dataset']:21} {row['architecture']:24}"
        print(f"{cell} {row['tasks']:2} tasks  loss {row['first']:9.4f} -> {row['last']:9.4f}  {row['seconds']:.1f} s")  # noqa: T201
    cells = [{name: row[name] for name in ("method", "dataset", "architecture")} for row in found]
    assert sorted(map(str, cells)) == sorted(map(str, grid.include))
    assert {row["state"] for row in found} == {"done"}
    assert all(row["points"] == 2 if "recipe" in row["dataset"] else row["points"] == STEPS // EVERY for row in found)
    assert not [row for row in found if "recipe" not in row["dataset"] and not row["last"] < 0.95 * row["first"]]
    return found


def add_datasets(grid: Grid, folder: Path) -> None:
    """Every dataset under hard sharing, with a network that suits it."""
    for name in registry.builtin("dataset"):
        params: dict[str, Any] = DIGITS.get(name, {})
        if name in folder_samples.WRITERS:
            root = folder / name
            root.mkdir()
            params = {"root": str(root), **folder_samples.WRITERS[name](root)}
            registry.build("dataset", name, **params).prepare()
        grid.datasets[name] = {"use": name, "params": params}
        grid.architectures[f"hps_{name}"] = {"use": "hps", "params": NETWORKS[name]}
        grid.cell("ls", name, f"hps_{name}", LONGER.get(name))


def add_architectures(grid: Grid) -> None:
    """Every architecture on dense and on plain digits, under a method that sees each task's gradient."""
    for data, network in ((name, NETWORKS[name]) for name in DIGITS):
        grid.datasets[data] = {"use": data, "params": DIGITS[data]}
        for name in registry.builtin("architecture"):
            grid.architectures[f"{name}_{data}"] = {"use": name, "params": network}
            grid.cell("pcgrad", data, f"{name}_{data}", LONGER.get(data))


def add_recipes(grid: Grid, folder: Path) -> None:
    """Two steps of each published recipe's own network, at its full width."""
    for recipe, folders in folder_samples.RECIPES.items():
        text = YAML(typ="safe").load((STUDIES / f"{recipe}.yaml").read_text())
        for variable, name in folders.items():
            folder_samples.prepare_for_recipe(variable, name, folder / variable)
        for (data, given), (network, shape) in product(text["datasets"].items(), text["architectures"].items()):
            place = given["params"]["root"].removeprefix("${env:").removesuffix("}")
            params = {**given["params"], "root": str(folder / place)}
            grid.datasets[f"recipe_{data}"] = {"use": given["use"], "params": params}
            grid.architectures[f"{recipe}_{network}"] = shape
            few = {"steps": 2, "eval_every": 1, "global_batch": 2, "lr": text["train"]["lr"]}
            grid.cell("ls", f"recipe_{data}", f"{recipe}_{network}", few)


@pytest.mark.slow
def test_every_dataset_architecture_and_recipe_trains_through_launch(tmp_path: Path) -> None:
    grid = Grid()
    add_datasets(grid, tmp_path)
    add_architectures(grid)
    add_recipes(grid, tmp_path)
    study, said = grid.launch(tmp_path)
    assert said["ran"] == len(grid.include)
    found = check(study, grid)
    assert {row["architecture"].partition("_densedigits")[0] for row in found} >= set(registry.builtin("architecture"))
