from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mtlfleet.datasets.metrics import MEANS, NAMES, Accumulator, accumulators
from mtlfleet.plan.tasks import METRICS, Task

REGRESSION = {
    "mse": reference.mean_squared_error,
    "rmse": reference.root_mean_squared_error,
    "mae": reference.mean_absolute_error,
}


def run(accumulator: Accumulator, prediction: torch.Tensor, target: torch.Tensor, cuts: list[int], ranks: int) -> float:
    """As a study computes it: batches dealt over ranks, states summed once at the end."""
    states = [accumulator.empty() for _ in range(ranks)]
    edges = [0, *sorted(cuts), len(target)]
    for number, (start, stop) in enumerate(pairwise(edges)):
        part = slice(start, stop)
        present = torch.ones(stop - start, dtype=torch.bool)
        states[number % ranks] = accumulator.update(states[number % ranks], prediction[part], target[part], present)
    return accumulator.value(torch.cat(states) if accumulator.joins else torch.stack(states).sum(0))


parting = st.tuples(st.integers(1, 60), st.integers(0, 2**31), st.integers(1, 4)).flatmap(
    lambda drawn: st.tuples(st.just(drawn), st.lists(st.integers(0, drawn[0]), max_size=6))
)


def test_every_metric_a_task_may_name_has_an_accumulator() -> None:
    bookkeeping = {"loss", "samples", "selected_step"}
    assert set(NAMES) == set(METRICS) - bookkeeping
    task = Task("t", 1, "regression", ("rmse", "mae"), 1.0)
    assert list(accumulators(task)) == ["rmse", "mae"]


@settings(max_examples=60, deadline=None)
@given(parting, st.sampled_from(sorted(REGRESSION)))
def test_regression_is_the_same_however_it_is_cut(drawn: tuple[tuple[int, int, int], list[int]], metric: str) -> None:
    (n, seed, ranks), cuts = drawn
    g = torch.Generator().manual_seed(seed)
    prediction, target = 100 * torch.randn(n, 1, generator=g), torch.randn(n, generator=g)
    expected = REGRESSION[metric](target.double().numpy(), prediction.double().numpy())
    assert run(MEANS[metric], prediction, target, cuts, ranks) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(parting, st.sampled_from(["classification", "binary"]))
def test_accuracy_and_error_are_exact_however_they_are_cut(
    drawn: tuple[tuple[int, int, int], list[int]], kind: str
) -> None:
    (n, seed, ranks), cuts = drawn
    g = torch.Generator().manual_seed(seed)
    prediction = torch.randn(n, 3 if kind == "classification" else 1, generator=g)
    target = torch.randint(3 if kind == "classification" else 2, (n,), generator=g)
    guess = prediction.argmax(1) if kind == "classification" else (prediction[:, 0] > 0).long()
    expected = reference.accuracy_score(target.numpy(), guess.numpy())
    labels = target if kind == "classification" else target.float()
    assert run(MEANS["accuracy"], prediction, labels, cuts, ranks) == expected
    assert run(MEANS["error"], prediction, labels, cuts, ranks) == pytest.approx(1 - expected, abs=1e-15)


@pytest.mark.parametrize("metric", ["accuracy", "error", "mae", "mse", "rmse"])
def test_absent_samples_are_not_read(metric: str) -> None:
    accumulator = MEANS[metric]
    prediction, target = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([1.0, math.nan, 1.0])
    state = accumulator.update(accumulator.empty(), prediction, target, torch.tensor([True, False, True]))
    kept = accumulator.update(accumulator.empty(), prediction[::2], target[::2], torch.ones(2, dtype=torch.bool))
    assert accumulator.count(state) == 2 and accumulator.value(state) == accumulator.value(kept)
    assert np.isfinite(accumulator.value(state))


@pytest.mark.parametrize("metric", ["accuracy", "error", "mae", "mse", "rmse"])
def test_nothing_seen_is_not_a_number(metric: str) -> None:
    assert math.isnan(MEANS[metric].value(MEANS[metric].empty()))


@pytest.mark.parametrize("target", [0, 1])
def test_a_prediction_that_is_not_a_number_is_never_right(target: int) -> None:
    yes = torch.ones(1, dtype=torch.bool)
    for prediction, label in (
        (torch.full((1, 1), math.nan), torch.tensor([float(target)])),
        (torch.tensor([[0.0, math.nan]]), torch.tensor([target])),
    ):
        accuracy = MEANS["accuracy"]
        assert accuracy.value(accuracy.update(accuracy.empty(), prediction, label, yes)) == 0
    rmse = MEANS["rmse"]
    assert math.isnan(rmse.value(rmse.update(rmse.empty(), torch.tensor([math.nan]), torch.tensor([0.0]), yes)))


def test_dense_classification_counts_pixels() -> None:
    g = torch.Generator().manual_seed(1)
    prediction, target = torch.randn(5, 3, 4, 4, generator=g), torch.randint(3, (5, 4, 4), generator=g)
    accuracy = MEANS["accuracy"]
    state = accuracy.update(accuracy.empty(), prediction, target, torch.ones(5, dtype=torch.bool))
    assert accuracy.count(state) == 80
    assert accuracy.value(state) == (prediction.argmax(1) == target).double().mean().item()
