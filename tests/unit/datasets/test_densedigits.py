"""Dense digits: what is painted, and what a constant gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlfleet.datasets.base import Split
from mtlfleet.datasets.densedigits import Densedigits, relief
from mtlfleet.datasets.metrics import accumulator

DATA = Densedigits(train=60, val=20, test=20)


def test_depth_normals_and_labels_cover_the_same_pixels() -> None:
    samples = DATA.split(Split.TRAIN)
    segments, depth, normals = (samples.targets[n] for n in ("segmentation", "depth", "normals"))
    there = segments > 0
    assert 0.1 < there.mean() < 0.6
    np.testing.assert_array_equal(depth[:, 0] > 0, there)
    np.testing.assert_array_equal((normals != 0).any(1), there)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1)[there], 1, rtol=1e-6)
    assert depth[depth > 0].min() >= 0.2 and depth.max() <= 1


def test_the_nearer_digit_is_in_front_and_brighter() -> None:
    """Where two depths meet in one canvas, pixels of the nearer one are brighter on average."""
    samples = DATA.split(Split.TRAIN)
    differences = []
    for image, depth in zip(samples.inputs[:, 0], samples.targets["depth"][:, 0], strict=True):
        levels = np.unique(depth[depth > 0])
        if len(levels) == 2:
            near, far = (image[depth == level].mean() for level in levels)
            differences.append(near - far)
    assert len(differences) > 40 and np.mean(differences) > 0.1


def test_normals_of_a_slope() -> None:
    ramp = np.tile(np.arange(5) / 3.0, (4, 1))  # one unit of height per column, with the relief of 3
    np.testing.assert_allclose(relief(ramp)[:, 2, 2], np.array([-1, 0, 1]) / np.sqrt(2), atol=1e-12)


def test_hard_tells_ten_digits_apart() -> None:
    seen = np.unique(Densedigits(hard=True).split(Split.TRAIN).targets["segmentation"])
    np.testing.assert_array_equal(seen, np.arange(11))
    assert Densedigits(hard=True).facts().tasks[0].outputs == 11


@pytest.mark.parametrize("task", DATA.facts().tasks, ids=lambda task: task.name)
def test_chance_is_what_a_constant_gets(task) -> None:  # type: ignore[no-untyped-def]
    target = torch.from_numpy(DATA.split(Split.TRAIN).targets[task.name])
    n = len(target)
    if task.name == "segmentation":
        constant = torch.zeros(n, 4, 24, 24)
        constant[:, 0] = 1
    elif task.name == "depth":
        constant = torch.full_like(target, float(target[target > 0].double().quantile(0.5)))
    else:
        constant = torch.zeros_like(target)
        constant[:, 2] = 1
    acc = accumulator(task, task.primary.name)
    found = acc.value(acc.update(acc.empty(), constant, target, torch.ones(n, dtype=torch.bool)))
    assert found == pytest.approx(task.chance, rel=1e-3)
