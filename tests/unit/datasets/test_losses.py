from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_squared_error

from mtlfleet.datasets.losses import mean_loss
from mtlfleet.engine.contract import Batch
from mtlfleet.plan.tasks import Kind, Task

N = 12


def task(kind: Kind, outputs: int) -> Task:
    return Task("t", outputs, kind, ("accuracy" if kind in ("classification", "binary") else "rmse",), 0.0)


def batch(target: torch.Tensor, present: torch.Tensor | None = None) -> Batch:
    mask = torch.ones(len(target), dtype=torch.bool) if present is None else present
    return Batch(torch.zeros(len(target), 1), {"t": target}, {"t": mask}, torch.arange(len(target)))


def drawn(kind: Kind) -> tuple[Task, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    if kind == "classification":
        return task(kind, 4), torch.randn(N, 4, generator=g), torch.randint(4, (N,), generator=g)
    target = torch.randn(N, generator=g)
    return task(kind, 1), torch.randn(N, 1, generator=g), (target > 0).float() if kind == "binary" else target


def reference(kind: Kind, prediction: torch.Tensor, target: torch.Tensor) -> float:
    p, y = prediction.double(), target.numpy()
    if kind == "classification":
        return float(log_loss(y, p.softmax(1).numpy(), labels=range(4)))
    if kind == "binary":
        return float(log_loss(y, p.sigmoid().squeeze(1).numpy(), labels=[0, 1]))
    return float(mean_squared_error(y, p.squeeze(1).numpy()))


KINDS: tuple[Kind, ...] = ("classification", "binary", "regression")


@pytest.mark.parametrize("kind", KINDS)
def test_loss_equals_scikit_learns(kind: Kind) -> None:
    t, prediction, target = drawn(kind)
    assert float(mean_loss(t, prediction, batch(target))) == pytest.approx(
        reference(kind, prediction, target), rel=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_absent_samples_are_as_if_they_were_not_there(kind: Kind) -> None:
    t, prediction, target = drawn(kind)
    present = torch.arange(N) % 3 != 0
    spoilt = target.clone()
    spoilt[~present] = -1 if kind == "classification" else math.nan
    prediction.requires_grad_()
    loss = mean_loss(t, prediction, batch(spoilt, present))
    assert loss.item() == pytest.approx(reference(kind, prediction.detach()[present], target[present]), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, prediction)
    assert (grad[~present] == 0).all() and (grad[present].abs().sum(1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_the_label_gives_zero_with_a_gradient(kind: Kind) -> None:
    t, prediction, target = drawn(kind)
    prediction.requires_grad_()
    loss = mean_loss(t, prediction, batch(target, torch.zeros(N, dtype=torch.bool)))
    (grad,) = torch.autograd.grad(loss, prediction)
    assert loss.item() == 0 and (grad == 0).all()


def test_dense_targets_weigh_every_sample_alike() -> None:
    g = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(N, 3, 4, 5, generator=g), torch.randint(3, (N, 4, 5), generator=g)
    flat = prediction.permute(0, 2, 3, 1).reshape(-1, 3).double().softmax(1).numpy()
    expected = log_loss(target.reshape(-1).numpy(), flat, labels=range(3))
    assert float(mean_loss(task("classification", 3), prediction, batch(target))) == pytest.approx(expected, rel=1e-5)


def test_a_prediction_of_the_wrong_shape_is_not_broadcast() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        mean_loss(task("regression", 1), torch.zeros(N, 2), batch(torch.zeros(N)))


def test_a_custom_task_needs_its_datasets_own_loss() -> None:
    with pytest.raises(NotImplementedError, match="override `loss`"):
        mean_loss(task("custom", 1), torch.zeros(N), batch(torch.from_numpy(np.zeros(N))))


@pytest.mark.parametrize("kind", ["segmentation", "depth", "normals"])
def test_a_dense_loss_reads_labelled_pixels_only(kind: Any) -> None:
    """The mean over an image's labelled pixels, by a loop; unlabelled pixels and absent images give no gradient."""
    g = torch.Generator().manual_seed(1)
    outputs = {"segmentation": 5, "depth": 1, "normals": 3}[kind]
    target = torch.randn(4, outputs, 3, 6, generator=g).abs()
    if kind == "segmentation":
        target = torch.randint(-1, 5, (4, 3, 6), generator=g)
    blank = -1 if kind == "segmentation" else 0
    target[..., 0, :2] = blank
    target[1] = blank
    present = torch.tensor([True, True, True, False])
    task = Task("t", outputs, kind, ("loss",), 0.0)
    prediction = torch.randn(4, outputs, 3, 6, requires_grad=True)
    found = mean_loss(task, prediction, Batch(torch.zeros(4), {"t": target}, {"t": present}, torch.arange(4)))
    each = []
    for image in range(3):
        pixels = []
        for row, column in product(range(3), range(6)):
            p, y = prediction.detach()[image, :, row, column].double(), target[image, ..., row, column]
            if kind == "segmentation" and y >= 0:
                pixels.append(float(torch.logsumexp(p, 0) - p[y]))
            elif kind == "depth" and y.item() > 0:
                pixels.append(float((p - y).abs().sum()))
            elif kind == "normals" and (y != 0).any():
                pixels.append(float(1 - p.dot(y.double()) / (p.norm() * y.double().norm())))
        each.append(sum(pixels) / len(pixels) if pixels else 0.0)
    assert found.item() == pytest.approx(sum(each) / 3, rel=1e-5)
    found.backward()
    assert prediction.grad is not None and prediction.grad.isfinite().all()
    assert not prediction.grad[3].any() and not prediction.grad[1].any() and not prediction.grad[0, :, 0, :2].any()
    assert prediction.grad[0, :, 2].any()
