from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlfleet.datasets.base import Split
from mtlfleet.datasets.synthetic_regression import SyntheticRegression
from mtlfleet.engine.contract import Batch


def batch(data: SyntheticRegression) -> Batch:
    samples = data.split(Split.TRAIN)
    targets = {name: torch.from_numpy(values) for name, values in samples.targets.items()}
    present = {name: torch.ones(len(samples), dtype=torch.bool) for name in targets}
    return Batch(torch.from_numpy(samples.inputs), targets, present, torch.arange(len(samples)))


def gradient_cosine(data: SyntheticRegression) -> float:
    """Of the first two tasks, at zero, for a linear model that answers both with the same output."""
    whole = batch(data)
    assert isinstance(whole.inputs, torch.Tensor)
    weight = torch.zeros(data.dim, requires_grad=True)
    grads = []
    for task in data.facts().tasks[:2]:
        loss = data.loss(task, whole.inputs @ weight, whole)
        grads.append(torch.autograd.grad(loss, weight)[0])
    return float(torch.nn.functional.cosine_similarity(grads[0], grads[1], dim=0))


def correlation(data: SyntheticRegression) -> np.ndarray:
    targets = data.split(Split.TRAIN).targets
    return np.corrcoef(np.stack([targets[f"task_{t}"] for t in range(data.tasks)]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.floats(0, 0.7), st.floats(0.3, 1))
def test_gradient_cosine_falls_with_conflict(seed: int, tasks: int, low: float, rise: float) -> None:
    high = min(1.0, low + rise)
    cosines = [gradient_cosine(SyntheticRegression(tasks=tasks, conflict=c, data_seed=seed)) for c in (low, high)]
    assert cosines[1] < cosines[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.floats(0, 1), st.sampled_from(["linear", "mlp"]))
def test_noiseless_targets_correlate_as_documented(seed: int, tasks: int, conflict: float, teacher: str) -> None:
    data = SyntheticRegression(tasks=tasks, conflict=conflict, teacher=teacher, noise=0, data_seed=seed)
    off = correlation(data)[~np.eye(tasks, dtype=bool)]
    np.testing.assert_allclose(off, 1 - conflict * tasks / (tasks - 1), atol=1e-5)


def test_two_tasks_go_from_agreement_to_opposition() -> None:
    ends = [gradient_cosine(SyntheticRegression(conflict=c, noise=0)) for c in (0.0, 1.0)]
    assert ends == pytest.approx([1.0, -1.0], abs=1e-4)


def test_training_targets_have_unit_variance_so_the_mean_scores_one() -> None:
    for values in SyntheticRegression(noise=0.5).split(Split.TRAIN).targets.values():
        assert np.sqrt(np.mean(values.astype(np.float64) ** 2)) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    "params",
    [{"tasks": 0}, {"tasks": 99}, {"conflict": 1.5}, {"noise": -1}, {"teacher": "oracle"}, {"train": 8}, {"val": 0}],
)
def test_impossible_parameters_are_refused_by_name(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        SyntheticRegression(**params)  # type: ignore[arg-type]
