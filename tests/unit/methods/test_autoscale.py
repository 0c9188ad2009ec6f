"""Weights picked in a first phase, then kept."""

from __future__ import annotations

import pytest
import torch

from mtlfleet.engine.gradients import Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods import build

ROWS = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
LOSSES = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)


class Counting(DenseGradients):
    """Says how often the Gram was asked for."""

    asked = 0

    def gram(self):
        Counting.asked += 1
        return super().gram()


def phases(metric: str, sizes: list[float], window: int = 2) -> tuple[list[list[float]], list[str]]:
    """Weights and words of a probe epoch with gradients of these sizes, then of two steps more."""
    method, found, words = build("autoscale", metric=metric, window=window), [], []
    state = method.init(3)
    Counting.asked = 0
    for number in range(len(sizes) + 2):
        epoch = int(number >= len(sizes))
        size = sizes[number] if not epoch else 100.0
        grads = Counting(ROWS * torch.tensor([[size], [1.0], [1.0]]), LOSSES)
        state, word = method.step(grads, method.unpack(method.pack(state), 3), Step(number, epoch))
        found.append(grads.weights.tolist())
        words.append(word)
    assert Counting.asked == len(sizes)
    return found, words


def test_gradients_are_made_alike_and_weights_stay() -> None:
    found, words = phases("magnitude", [1.0, 1.0, 1.0, 1.0])
    assert found[:4] == [[1.0, 1.0, 1.0]] * 4
    inverse = torch.tensor([0.25, 1.0, 2.0])
    assert found[4] == pytest.approx((3 * inverse / inverse.sum()).tolist())
    assert found[5] == found[4]
    assert words == ["probe"] * 4 + ["ok"] * 2


def test_windows_are_averaged_on_a_logarithmic_scale() -> None:
    """A window with a first gradient four times as long, and one with it as it is: twice as long. A last window that
    the epoch cuts short counts too."""
    inverse = torch.tensor([0.125, 1.0, 2.0])
    expected = (3 * inverse / inverse.sum()).tolist()
    assert phases("magnitude", [4.0, 4.0, 1.0, 1.0])[0][-1] == pytest.approx(expected)
    assert phases("magnitude", [4.0, 4.0, 1.0])[0][-1] == pytest.approx(expected)


def test_other_metrics() -> None:
    by_loss = 1 / LOSSES
    assert phases("loss", [1.0, 1.0])[0][-1] == pytest.approx((3 * by_loss / by_loss.sum()).tolist())
    # orthogonal gradients are best conditioned with equal norms
    assert phases("condition", [1.0, 1.0])[0][-1] == pytest.approx(phases("magnitude", [1.0, 1.0])[0][-1])


def test_a_probe_without_a_choice_says_so() -> None:
    found, words = phases("magnitude", [0.0, 0.0])
    assert found[-1] == pytest.approx([1.0, 1.0, 1.0])
    assert words[-1] == "no_choice"
