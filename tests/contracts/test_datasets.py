"""What every dataset promises, checked on each one the registry knows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest

from mtlfleet import registry
from mtlfleet.datasets.base import Arrays, Dataset, Samples, Split
from mtlfleet.plan.tasks import DENSE

# Data in a folder keep their promises in tests/unit/datasets/test_loaders.py.
NAMES = [n for n, e in registry.builtin("dataset").items() if "root" not in {p.name for p in e.parameters}]
KIND_DTYPE = {"classification": np.int64, "segmentation": np.int64}


@pytest.fixture(params=NAMES)
def data(request: pytest.FixtureRequest) -> Dataset:
    built = registry.build("dataset", request.param)
    assert isinstance(built, Dataset)
    return built


def whole(samples: Samples) -> Arrays:
    return samples.fetch(np.arange(len(samples)))


def rows(samples: Samples) -> list[bytes]:
    inputs = whole(samples).inputs
    assert not isinstance(inputs, Mapping)
    return [row.tobytes() for row in inputs]


def test_facts_agree_with_the_data(data: Dataset) -> None:
    facts = data.facts()
    sizes = {Split.TRAIN: facts.train_size, Split.VAL: facts.extras["val_size"], Split.TEST: facts.extras["test_size"]}
    for split in Split:
        arrays = whole(data.split(split))
        assert not isinstance(arrays.inputs, Mapping)
        assert arrays.inputs.shape == (sizes[split], *facts.input_shape)
        assert arrays.inputs.dtype == np.float32 and np.isfinite(arrays.inputs).all()
        assert list(arrays.targets) == [task.name for task in facts.tasks]
        for task in facts.tasks:
            target = arrays.targets[task.name]
            assert target.shape[0] == sizes[split] and target.dtype == KIND_DTYPE.get(task.kind, np.float32)
            assert np.isfinite(target).all()


def test_labels_are_in_range_and_training_shows_every_class(data: Dataset) -> None:
    for task in data.facts().tasks:
        for split in Split:
            seen = np.unique(whole(data.split(split)).targets[task.name])
            if task.kind in ("classification", "binary", "segmentation"):
                every = np.arange(max(2, task.outputs))
                assert np.isin(seen, every).all()
                assert split is not Split.TRAIN or len(seen) == len(every)


def test_chance_is_what_a_constant_gets_on_train(data: Dataset) -> None:
    for task in data.facts().tasks:
        if task.kind in DENSE:
            continue  # of a constant prediction too, by the metric itself: tests/unit/datasets/test_densedigits.py
        target = whole(data.split(Split.TRAIN)).targets[task.name].astype(np.float64)
        if task.primary.name == "accuracy":
            best_constant = np.unique(target, return_counts=True)[1].max() / len(target)
            assert task.chance == pytest.approx(best_constant, abs=0.02)
        else:
            assert task.primary.name == "rmse"
            assert task.chance == pytest.approx(target.std(), rel=1e-3)


def test_no_sample_is_in_two_splits(data: Dataset) -> None:
    train, val, test = (set(rows(data.split(split))) for split in Split)
    assert not train & val and not train & test and not val & test


def test_fetch_keeps_order_and_names_its_samples(data: Dataset) -> None:
    samples = data.split(Split.TRAIN)
    picked = np.array([5, 0, 5, len(samples) - 1])
    arrays, every = samples.fetch(picked), whole(samples)
    np.testing.assert_array_equal(arrays.index, picked)
    assert arrays.index.dtype == np.int64
    assert not isinstance(arrays.inputs, Mapping) and not isinstance(every.inputs, Mapping)
    np.testing.assert_array_equal(arrays.inputs, every.inputs[picked])
    for name, target in arrays.targets.items():
        np.testing.assert_array_equal(target, every.targets[name][picked])


def test_a_split_is_made_once_per_process(data: Dataset) -> None:
    again = type(data)(**{f: getattr(data, f) for f in registry.find("dataset", data.name).defaults})
    assert again == data and again.split(Split.VAL) is data.split(Split.VAL)


PROBE = """
import hashlib, sys
from mtlfleet import registry
from mtlfleet.datasets.base import Split
data = registry.build("dataset", sys.argv[1])
facts = data.facts()
loaded = [name for name in ("torch", "sklearn", "ray", "scipy") if name in sys.modules]
parts = [data.split(split) for split in Split]
digest = hashlib.sha256(b"".join(p.inputs.tobytes() + b"".join(t.tobytes() for t in p.targets.values()) for p in parts))
print(facts.fingerprint, digest.hexdigest(), loaded)
"""


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_cheap_and_every_process_draws_the_same(name: str) -> None:
    """No torch, no scikit-learn; the same fingerprint and the same bytes under another hash seed."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROBE, name],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    fingerprint, _, loaded = runs[0].stdout.split(maxsplit=2)
    assert fingerprint == registry.build("dataset", name).facts().fingerprint
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_follows_the_parameters(name: str) -> None:
    base = registry.build("dataset", name)
    other = registry.build("dataset", name, data_seed=base.data_seed + 1)
    assert other.facts().fingerprint != base.facts().fingerprint
    assert set(rows(other.split(Split.TEST))) != set(rows(base.split(Split.TEST)))
