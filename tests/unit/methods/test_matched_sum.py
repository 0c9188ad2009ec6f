"""The control keeps another method's step length, and the plain sum's direction."""

from __future__ import annotations

import pytest
import torch

from mtlfleet import methods
from mtlfleet.methods.base import OutOfDomain


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
