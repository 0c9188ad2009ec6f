from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mtlfleet.datasets.base import Split
from mtlfleet.datasets.multidigits import Multidigits, base_digits, overlay


def glyphs(params: Multidigits, split: Split) -> set[bytes]:
    """The base digits of a split, cut out of canvases on which they do not touch."""
    images = params.split(split).inputs[:, 0]
    return {image[part].tobytes() for image in images for part in (np.s_[:8, :8], np.s_[8:, 8:])}


def test_the_digits_are_scikit_learns() -> None:
    images, labels = base_digits()
    known = load_digits()
    np.testing.assert_array_equal(images * 16, known.images)
    np.testing.assert_array_equal(labels, known.target)


@pytest.mark.parametrize("data_seed", [7, 8])
def test_no_base_digit_is_in_two_splits(data_seed: int) -> None:
    params = Multidigits(shift=8, data_seed=data_seed)
    train, val, test = (glyphs(params, split) for split in Split)
    assert not train & val and not train & test and not val & test
    assert (len(train), len(val)) == pytest.approx((1074, 359), rel=0.02)  # 60 and 20 percent of 1797, nearly all drawn


@pytest.mark.parametrize("shift", [2, 8, 16])
def test_a_canvas_is_a_left_and_a_right_digit_of_the_labels(shift: int) -> None:
    samples = Multidigits(shift=shift, train=30).split(Split.TRAIN)
    images, labels = base_digits()
    edge = min(shift, 8)  # rows that only one of the two can ink
    for canvas, left, right in zip(samples.inputs, samples.targets["left"], samples.targets["right"], strict=True):
        lefts = [i for i in images[labels == left] if (i[:edge] == canvas[0, :edge, :8]).all()]
        rights = [i for i in images[labels == right] if (i[-edge:] == canvas[0, -edge:, -8:]).all()]
        pairs = [(one, other) for one in lefts for other in rights]
        made = overlay(np.array([one for one, _ in pairs]), np.array([other for _, other in pairs]), shift)
        assert (made == canvas).all(axis=(1, 2, 3)).any()


def test_overlay_takes_the_maximum() -> None:
    left, right = np.full((1, 8, 8), 0.25, np.float32), np.full((1, 8, 8), 0.5, np.float32)
    canvas = overlay(left, right, 3)[0, 0]
    assert canvas[0, 0] == 0.25 and canvas[3, 3] == 0.5 and canvas[10, 10] == 0.5 and canvas[0, 10] == 0


def test_the_drawn_data_never_change_under_the_same_fingerprint() -> None:
    """Integer draws and copies only: equal on every machine. If this fails on purpose, raise RECIPE."""
    samples = Multidigits().split(Split.TEST)
    drawn = hashlib.sha256(
        samples.inputs.tobytes() + samples.targets["left"].tobytes() + samples.targets["right"].tobytes()
    )
    assert drawn.hexdigest() == "6d045ffe78a2791125aad7210c088f5217568bdcd261c468f62983f8084da0ef"


@pytest.mark.parametrize("params", [{"shift": 0}, {"shift": 17}, {"train": 0}, {"test": -1}])
def test_impossible_parameters_are_refused_by_name(params: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        Multidigits(**params)
