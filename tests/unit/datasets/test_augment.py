"""Scale and flip: labels stay true of their picture, and a sample's draw is its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtlfleet.datasets.augment import SCALES, cropped, flipped, scale_and_flip
from mtlfleet.datasets.base import ArraySamples, Split
from mtlfleet.datasets.densedigits import Densedigits
from mtlfleet.train.feed import Feed

TRAIN = Densedigits(train=12, val=4, test=4).split(Split.TRAIN)
ARRAYS = replace(TRAIN.fetch(np.arange(8)))
SAMPLE = {"image": ARRAYS.inputs[0], **{name: values[0] for name, values in ARRAYS.targets.items()}}


def test_two_mirrors_show_the_original() -> None:
    for name, values in flipped(flipped(SAMPLE)).items():
        np.testing.assert_array_equal(values, SAMPLE[name])
    assert not np.array_equal(flipped(SAMPLE)["normals"][0], SAMPLE["normals"][0, :, ::-1])
    np.testing.assert_array_equal(flipped(SAMPLE)["normals"][1], SAMPLE["normals"][1, :, ::-1])


@pytest.mark.parametrize("scale", SCALES[1:])
@given(corner=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2))
def test_an_enlarged_window_agrees_with_torch(scale: float, corner: tuple[float, float]) -> None:
    found = cropped(SAMPLE, scale, np.array(corner))
    height, width = SAMPLE["image"].shape[-2:]
    h, w = int(height / scale), int(width / scale)
    i, j = int(corner[0] * (height - h + 1)), int(corner[1] * (width - w + 1))
    for name, values in SAMPLE.items():
        part = torch.from_numpy(np.ascontiguousarray(values[..., i : i + h, j : j + w])).double()
        part = part.reshape(1, -1, h, w)
        smooth = name in ("image", "normals")
        how = {"mode": "bilinear", "align_corners": True} if smooth else {"mode": "nearest"}
        wants = torch.nn.functional.interpolate(part, (height, width), **how).reshape(values.shape).numpy()
        if name == "depth":
            wants = wants / scale
        assert found[name].dtype == values.dtype
        np.testing.assert_allclose(found[name], wants, atol=2e-6)


def test_a_label_is_drawn_from_those_that_occur() -> None:
    seen = scale_and_flip(ARRAYS, 3)
    assert set(np.unique(seen.targets["segmentation"])) <= set(np.unique(ARRAYS.targets["segmentation"]))
    unknown = seen.targets["depth"][:, 0] == 0
    np.testing.assert_array_equal(unknown, seen.targets["segmentation"] == 0)


def test_a_sample_is_shown_alike_on_any_rank_and_otherwise_in_another_epoch() -> None:
    data = ArraySamples(TRAIN.inputs, TRAIN.targets)
    tasks = tuple(TRAIN.targets)

    def shown(rank: int, world: int, step: int) -> dict[int, np.ndarray]:
        batch = Feed(data, tasks, 12, 0, rank, world, scale_and_flip).at(step).batch
        return dict(zip(batch.index.tolist(), batch.inputs.numpy(), strict=True))

    alone, halves = shown(0, 1, 0), shown(0, 2, 0) | shown(1, 2, 0)
    assert alone.keys() == halves.keys()
    assert all(np.array_equal(alone[i], halves[i]) for i in alone)
    later = shown(0, 1, 1)
    assert sum(not np.array_equal(alone[i], later[i]) for i in alone) >= 6
    assert all(np.array_equal(alone[i], shown(0, 1, 0)[i]) for i in alone)
