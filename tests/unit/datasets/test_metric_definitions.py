"""Each metric beside an independent implementation on the same arrays, however the arrays are cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mtlfleet.datasets.confusion import class_iou
from mtlfleet.datasets.metrics import NAMES, accumulator
from mtlfleet.plan.tasks import METRICS, Task

Arrays = tuple[torch.Tensor, torch.Tensor]
Parting = tuple[int, int, int, list[int]]


def task(kind: Any, outputs: int, metric: str) -> Task:
    return Task("t", outputs, kind, (metric,), 0.0)


def run(given_task: Task, prediction: torch.Tensor, target: torch.Tensor, cuts: list[int], ranks: int) -> float:
    """As a study computes it: batches dealt over ranks, states put together once at the end."""
    acc = accumulator(given_task, given_task.metrics[0])
    states = [acc.empty() for _ in range(ranks)]
    for number, (start, stop) in enumerate(pairwise([0, *sorted(cuts), len(target)])):
        part, rank = slice(start, stop), number % ranks
        present = torch.ones(stop - start, dtype=torch.bool)
        states[rank] = acc.update(states[rank], prediction[part], target[part], present)
    return acc.value(torch.cat(states) if acc.joins else torch.stack(states).sum(0))


def labels(g: torch.Generator, n: int) -> Arrays:
    """Scores with ties."""
    return (torch.randn(n, 1, generator=g) * 3).round() / 3, torch.randint(2, (n,), generator=g).float()


def classes(g: torch.Generator, n: int) -> Arrays:
    return torch.randn(n, 4, generator=g), torch.randint(4, (n,), generator=g)


def numbers(g: torch.Generator, n: int) -> Arrays:
    y = torch.randn(n, generator=g) * 5 + 2
    return (y + torch.randn(n, generator=g))[:, None], y


def segments(g: torch.Generator, n: int) -> Arrays:
    """Six classes, of which one is never labelled nor predicted, and pixels without a label."""
    prediction = torch.randn(n, 6, 3, 5, generator=g)
    prediction[:, 5] = -100
    return prediction, torch.randint(-1, 5, (n, 3, 5), generator=g)


def depths(g: torch.Generator, n: int) -> Arrays:
    y = torch.rand(n, 1, 3, 5, generator=g) + 0.2
    missing = torch.rand(n, 1, 3, 5, generator=g) < 0.3
    return y + 0.3 * torch.randn(n, 1, 3, 5, generator=g), y.masked_fill(missing, 0.0)


def normals(g: torch.Generator, n: int) -> Arrays:
    y = torch.nn.functional.normalize(torch.randn(n, 3, 3, 5, generator=g), dim=1)
    y[0, :, 0, 0] = torch.tensor([0.5**0.5, -(0.5**0.5), 0.0])  # components that cancel
    missing = torch.rand(n, 1, 3, 5, generator=g) < 0.3
    missing[0, 0, 0, 0] = False
    return y + 0.4 * torch.randn(n, 3, 3, 5, generator=g), y.masked_fill(missing, 0.0)


def np_miou(p: np.ndarray, y: np.ndarray) -> float:
    guess, kept = p.argmax(1)[y >= 0], y[y >= 0]
    return float(reference.jaccard_score(kept, guess, average="macro", labels=np.union1d(kept, guess)))


def np_depth(f: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda p, y: float(f(p[y > 0].astype(float), y[y > 0].astype(float)).mean())


def np_angles(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    found = []
    for mine, true in zip(p.transpose(0, 2, 3, 1).reshape(-1, 3), y.transpose(0, 2, 3, 1).reshape(-1, 3), strict=True):
        if np.any(true != 0):
            mine, true = mine.astype(float), true.astype(float)
            sine = np.linalg.norm(np.cross(mine, true))  # another formula than acos
            found.append(math.degrees(math.atan2(sine, float(mine @ true))))
    return np.array(found)


def logistic(p: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-p[:, 0].astype(float))))


def softmax(p: np.ndarray) -> np.ndarray:
    e = np.exp(p.astype(float))
    return np.asarray(e / e.sum(1, keepdims=True))


def ccc(p: np.ndarray, y: np.ndarray) -> float:
    p, y = p[:, 0].astype(float), y.astype(float)
    return float(2 * np.cov(p, y, bias=True)[0, 1] / (p.var() + y.var() + (p.mean() - y.mean()) ** 2))


Made = Callable[[torch.Generator, int], Arrays]
CASES: dict[str, tuple[Any, int, Made, Callable[[np.ndarray, np.ndarray], float]]] = {
    "auc": ("binary", 1, labels, lambda p, y: float(reference.roc_auc_score(y, p[:, 0]))),
    "f1": ("binary", 1, labels, lambda p, y: float(reference.f1_score(y, p[:, 0] > 0, zero_division=0))),
    "logloss": ("binary", 1, labels, lambda p, y: float(reference.log_loss(y, logistic(p), labels=[0, 1]))),
    "macro_f1": (
        "classification", 4, classes,
        lambda p, y: float(reference.f1_score(y, p.argmax(1), average="macro", labels=np.union1d(y, p.argmax(1)))),
    ),
    "balanced_accuracy": (
        "classification", 4, classes,
        lambda p, y: float(reference.recall_score(y, p.argmax(1), average="macro", labels=np.unique(y))),
    ),
    "r2": ("regression", 1, numbers, lambda p, y: float(reference.r2_score(y.astype(float), p[:, 0].astype(float)))),
    "ccc": ("regression", 1, numbers, ccc),
    "miou": ("segmentation", 6, segments, np_miou),
    "pixel_accuracy": ("segmentation", 6, segments, lambda p, y: float((p.argmax(1) == y)[y >= 0].mean())),
    "abs_err": ("depth", 1, depths, np_depth(lambda p, y: np.abs(p - y))),
    "rel_err": ("depth", 1, depths, np_depth(lambda p, y: np.abs(p - y) / y)),
    "depth_rmse": ("depth", 1, depths, lambda p, y: math.sqrt(np_depth(lambda a, b: (a - b) ** 2)(p, y))),
    **{
        f"delta{k}": (
            "depth", 1, depths,
            np_depth(lambda p, y, k=k: np.maximum(y / p.clip(1e-6), p.clip(1e-6) / y) < 1.25**k),  # type: ignore[misc]
        )
        for k in (1, 2, 3)
    },
    "angle_mean": ("normals", 3, normals, lambda p, y: float(np_angles(p, y).mean())),
    "within_11_25": ("normals", 3, normals, lambda p, y: float((np_angles(p, y) < 11.25).mean())),
    "within_22_5": ("normals", 3, normals, lambda p, y: float((np_angles(p, y) < 22.5).mean())),
    "within_30": ("normals", 3, normals, lambda p, y: float((np_angles(p, y) < 30).mean())),
    "angle_median": ("normals", 3, normals, lambda p, y: float(np.percentile(np_angles(p, y), 50, method="lower"))),
}  # fmt: skip
ELSEWHERE = {"accuracy", "error", "mae", "mse", "rmse"}  # test_metrics.py
drawn = st.tuples(
    st.integers(2, 30), st.integers(0, 2**31), st.integers(1, 4), st.lists(st.integers(0, 30), max_size=5)
)


def test_no_metric_is_without_an_independent_value() -> None:
    assert {*CASES, *ELSEWHERE} == set(NAMES)


@pytest.mark.parametrize("metric", CASES)
@settings(max_examples=8, deadline=None)
@given(drawn)
def test_the_value_is_the_independent_one_however_it_is_cut(metric: str, parting: Parting) -> None:
    n, seed, ranks, cuts = parting
    kind, outputs, make, independent = CASES[metric]
    prediction, target = make(torch.Generator().manual_seed(seed), n)
    if metric == "auc":
        target[:2] = torch.tensor([0.0, 1.0])
    found = run(task(kind, outputs, metric), prediction, target, [min(c, n) for c in cuts], ranks)
    slack = {"angle_median": 0.0051}.get(metric, 0.0)
    assert found == pytest.approx(independent(prediction.numpy(), target.numpy()), rel=1e-6, abs=1e-9 + slack)


@pytest.mark.parametrize("metric", CASES)
def test_moving_towards_the_truth_never_makes_it_worse(metric: str) -> None:
    """The registered direction is the real one, and ``best`` is what the truth itself gets."""
    kind, outputs, make, _ = CASES[metric]
    prediction, target = make(torch.Generator().manual_seed(3), 40)
    if kind == "binary":
        truth = 20 * (2 * target[:, None] - 1)
    elif kind in ("classification", "segmentation"):
        truth = 40.0 * torch.nn.functional.one_hot(target.clamp(min=0), outputs).movedim(-1, 1)
    else:
        truth = target[:, None].clone() if kind == "regression" else target.clone()
    signs = {"max": 1.0, "min": -1.0}[METRICS[metric].direction]
    values = [
        run(task(kind, outputs, metric), torch.lerp(prediction, truth.float(), t), target, [], 1)
        for t in (0.0, 0.5, 0.9, 1.0)
    ]
    # Half a bin of the median's histogram, and float32's cosine next to 1.
    slack = {"angle_median": 0.01, "angle_mean": 0.05, "logloss": 1e-6, "ccc": 1e-6, "r2": 1e-6}.get(metric, 1e-9)
    assert all(signs * b >= signs * a - slack for a, b in pairwise(values)), values
    assert signs * values[-1] > signs * values[0]
    assert values[-1] == pytest.approx(METRICS[metric].best, abs=max(slack, 1e-5))


@pytest.mark.parametrize("metric", CASES)
def test_nothing_labelled_is_not_a_number(metric: str) -> None:
    kind, outputs, make, _ = CASES[metric]
    prediction, target = make(torch.Generator().manual_seed(0), 3)
    acc = accumulator(task(kind, outputs, metric), metric)
    assert math.isnan(acc.value(acc.empty()))
    absent = acc.update(acc.empty(), prediction, target, torch.zeros(3, dtype=torch.bool))
    assert math.isnan(acc.value(absent)) and acc.count(absent) == 0
    if kind in ("segmentation", "depth", "normals"):
        blank = torch.full_like(target, -1) if kind == "segmentation" else torch.zeros_like(target)
        unlabelled = acc.update(acc.empty(), prediction, blank, torch.ones(3, dtype=torch.bool))
        assert math.isnan(acc.value(unlabelled)) and acc.count(unlabelled) == 0


@pytest.mark.parametrize("metric", CASES)
def test_a_prediction_that_is_not_a_number_never_helps(metric: str) -> None:
    kind, outputs, make, _ = CASES[metric]
    prediction, target = make(torch.Generator().manual_seed(0), 12)
    good = run(task(kind, outputs, metric), prediction, target, [], 1)
    prediction[3] = math.nan
    found = run(task(kind, outputs, metric), prediction, target, [], 1)
    sign = 1.0 if METRICS[metric].direction == "max" else -1.0
    assert math.isnan(found) or sign * found <= sign * good


def test_the_pooled_miou_is_not_the_mean_of_the_images() -> None:
    """Two images of one class each; MTAN before November 2020 averaged over images."""
    prediction = torch.full((2, 2, 1, 4), 0.0)
    prediction[:, 0] = 1.0
    target = torch.tensor([[[0, 0, 0, 0]], [[0, 1, 1, 1]]])
    found = run(task("segmentation", 2, "miou"), prediction, target, [1], 2)
    assert found == pytest.approx((5 / 8 + 0) / 2)


def test_iou_by_class_names_the_class_that_does_not_occur() -> None:
    counts = torch.zeros(3, 4, dtype=torch.float64)
    counts[0, 0], counts[0, 1], counts[1, 3] = 3, 1, 2  # the last: predictions that were not finite
    found = class_iou(counts)
    assert found[0] == 0.75 and found[1] == 0 and found[2].isnan()


def test_an_auc_of_one_class_is_not_a_number() -> None:
    assert math.isnan(run(task("binary", 1, "auc"), torch.randn(4, 1), torch.ones(4), [2], 2))


def test_depth_is_pooled_over_pixels_not_over_batches() -> None:
    target = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]).view(2, 1, 1, 4)
    prediction = target + torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 5.0]).view(2, 1, 1, 4)
    assert run(task("depth", 1, "abs_err"), prediction, target, [1], 1) == pytest.approx(1.0)
