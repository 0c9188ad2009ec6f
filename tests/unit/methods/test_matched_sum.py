"""The control keeps another method's step length, and the plain sum's direction."""

from __future__ import annotations

import pytest
import torch

from mtlfleet import methods
from mtlfleet.engine.gradients import Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods.base import Method, OutOfDomain


@pytest.mark.parametrize("like", ["mgda", "cagrad", "nash_mtl", "upgrad", "imtl_g"])
def test_the_length_is_the_methods_and_the_direction_the_sums(like: str) -> None:
    rows = torch.randn(3, 20, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    update, model = methods.combine("matched_sum", rows, like=like), methods.combine(like, rows)
    assert float(update.norm()) == pytest.approx(float(model.norm()), rel=1e-6)
    torch.testing.assert_close(update / update.norm(), rows.sum(0) / rows.sum(0).norm())


def test_gradients_that_cancel_give_no_update() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert not methods.combine("matched_sum", rows, like="cagrad").any()


@pytest.mark.parametrize("like", ["uw", "graddrop", "matched_sum"])
def test_only_a_gram_weighting_has_a_length_to_match(like: str) -> None:
    with pytest.raises(OutOfDomain, match="Gram"):
        methods.combine("matched_sum", torch.eye(2), like=like)


def task_factors(
    method: Method, rows: torch.Tensor, losses: torch.Tensor
) -> tuple[DenseGradients, torch.Tensor | None]:
    """A step, and what it multiplies the gradients of task parameters by, if it says so itself."""
    grads = DenseGradients(rows, losses)
    method.step(grads, method.init(len(losses)), Step())
    return grads, grads.own


@pytest.mark.parametrize("like", ["db_mtl", "imtl"])
def test_only_the_length_is_taken_from_a_method_that_scales_task_parameters(like: str) -> None:
    """The model multiplies the gradients of heads (``scale_own``); a plain sum of that length leaves them plain."""
    rows = torch.randn(3, 20, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    losses = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    model, factors = task_factors(methods.build(like), rows, losses)
    control, none = task_factors(methods.build("matched_sum", like=like), rows, losses)
    assert factors is not None and none is None
    if like == "db_mtl":  # its heads follow the logarithm of their loss
        torch.testing.assert_close(factors, 1 / losses)
    assert float(control.direction().norm()) == pytest.approx(float(model.direction().norm()), rel=1e-6)
    assert control.weights is not None and float(control.weights.std()) == pytest.approx(0, abs=1e-12)


def test_a_steadied_method_still_scales_task_parameters() -> None:
    rows, losses = torch.eye(2, dtype=torch.float64), torch.tensor([0.5, 4.0], dtype=torch.float64)
    _, factors = task_factors(methods.build("stabilised", use="db_mtl"), rows, losses)
    torch.testing.assert_close(factors, 1 / losses)
    with pytest.raises(OutOfDomain, match="scales task parameters"):
        task_factors(methods.build("stabilised", use="db_mtl", update_every=2), rows, losses)
