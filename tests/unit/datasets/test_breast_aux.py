from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from mtlfleet.datasets.base import Split
from mtlfleet.datasets.breast_aux import NAMES, WORST, BreastAux, table


def test_columns_are_the_ones_they_are_named_after() -> None:
    known = load_breast_cancer()
    np.testing.assert_array_equal(table()[:, :30], known.data)
    for name, column in WORST.items():
        assert known.feature_names[column] == name.replace("_", " ")
    assert all(name.startswith("mean ") for name in known.feature_names[:10])
    assert list(known.target_names) == ["malignant", "benign"]


def test_only_training_rows_standardise() -> None:
    data = BreastAux(tasks=NAMES)
    train, test = data.split(Split.TRAIN), data.split(Split.TEST)
    np.testing.assert_allclose(train.inputs.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train.inputs.std(0), 1, rtol=1e-5)
    assert np.abs(test.inputs.mean(0)).max() > 1e-3
    for name in WORST:
        assert np.sqrt(np.mean(train.targets[name] ** 2)) == pytest.approx(1.0, rel=1e-5)


def test_splits_are_stratified_and_hold_every_patient_once() -> None:
    data = BreastAux()
    shares = [data.split(split).targets["malignant"].mean() for split in Split]
    assert max(shares) - min(shares) < 0.01
    rows = np.concatenate([data.split(split).inputs for split in Split])
    assert len(np.unique(rows, axis=0)) == len(rows) == 569


def test_the_label_means_malignant() -> None:
    samples = BreastAux(tasks=NAMES).split(Split.TRAIN)
    sick = samples.targets["malignant"] == 1
    assert samples.targets["worst_area"][sick].mean() > samples.targets["worst_area"][~sick].mean() + 1


@pytest.mark.parametrize("tasks", [(), ("benign",), ("malignant", "malignant")])
def test_impossible_tasks_are_refused(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="worst_texture"):
        BreastAux(tasks=tasks)


def test_a_list_from_a_study_file_is_the_same_data() -> None:
    listed = BreastAux(tasks=["malignant", "worst_area"])  # type: ignore[arg-type]
    assert listed == BreastAux(tasks=("malignant", "worst_area"))
    assert listed.facts() == BreastAux(tasks=("malignant", "worst_area")).facts()


def test_noise_has_nothing_to_learn_and_leaves_the_other_tasks_alone() -> None:
    with_noise, without = BreastAux(tasks=("malignant", "noise")), BreastAux(tasks=("malignant", "worst_area"))
    samples = [with_noise.split(split) for split in Split]
    inputs, noise = np.concatenate([s.inputs for s in samples]), np.concatenate([s.targets["noise"] for s in samples])
    assert noise.std() == pytest.approx(1.0, abs=0.1)
    assert max(abs(np.corrcoef(column, noise)[0, 1]) for column in inputs.T) < 0.15
    np.testing.assert_array_equal(
        with_noise.split(Split.TEST).targets["malignant"], without.split(Split.TEST).targets["malignant"]
    )
