"""pcd, igb and go4align against values found by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mtlfleet import methods
from mtlfleet.engine.gradients import Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.linalg.least_distance import lift
from mtlfleet.methods.base import OutOfDomain


def word(name: str, rows: torch.Tensor, **params) -> tuple[str, list[float]]:
    method, grads = methods.build(name, **params), DenseGradients(rows)
    _, status = method.step(grads, method.init(len(rows)), Step())
    return status, grads.direction().tolist()


def test_guaranteed_progress_by_hand() -> None:
    """Unit gradients at 120 degrees, tau 1/2: d = g1 + mu g2 with g2 d = 1/2, so mu = 1, |d| = 1."""
    rows = torch.tensor([[1.0, 0.0], [-0.5, math.sqrt(0.75)]], dtype=torch.float64)
    assert methods.weights("pcd", rows, tau=0.5, eps=0.0).tolist() == pytest.approx([1.0, 1.0])
    other = methods.weights("pcd", rows.flip(0), tau=0.5, eps=0.0, primary=1)
    assert other.tolist() == pytest.approx([1.0, 1.0])
    agree = torch.tensor([[1.0, 0.2], [1.0, 0.0]], dtype=torch.float64)
    assert methods.weights("pcd", agree, tau=0.5, eps=0.0).tolist() == pytest.approx([1.0, 0.0])  # nothing to ask for


def test_what_has_no_direction_says_so() -> None:
    opposed = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert word("pcd", opposed) == ("infeasible", [1.0, 0.0])
    assert word("pcd", torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)) == (
        "stationary_by_zero_grad",
        [0.0, 0.0],
    )
    against = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert word("pcd", against, tau=0.0, eps=0.0) == ("stationary", [0.0, 0.0])
    with pytest.raises(OutOfDomain, match="no task number 2"):
        word("pcd", against, primary=2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_the_shortest_vector_in_half_spaces(seed: int, tasks: int) -> None:
    generator = np.random.default_rng(seed)
    rows, right = generator.normal(size=(tasks, 5)), generator.normal(size=tasks)
    found = lift(rows @ rows.T, right)
    assert found is not None
    x = rows.T @ found
    assert (rows @ x >= right - 1e-8).all()
    assert (found >= 0).all()
    assert np.abs(found * (rows @ x - right)).max() < 1e-7
    theirs = minimize(
        lambda y: y @ y, np.zeros(5), constraints={"type": "ineq", "fun": lambda y: rows @ y - right}, method="SLSQP"
    )
    assert np.linalg.norm(x) == pytest.approx(np.linalg.norm(theirs.x), abs=1e-4)


def test_gaps_are_measured_in_the_base_epoch() -> None:
    """By hand: base losses (2, 4); at (1, 4) gaps are (1/2, 1), softmax (0.377541, 0.622459), times 2 over the loss."""
    igb = methods.build("igb")
    state, losses = igb.init(2), Losses(torch.tensor([1.0, 4.0], dtype=torch.float64))
    seen = [(8.0, 8.0), (8.0, 8.0), (1.0, 3.0), (3.0, 5.0)]  # two epochs of two steps
    for number, pair in enumerate(seen):
        given_ = Losses(torch.tensor(pair, dtype=torch.float64))
        weights, state, status = igb.weigh(given_, state, Step(number, number // 2))
        assert status == "warmup"
        assert weights.tolist() == [1 / pair[0], 1 / pair[1]]
    assert (state.total / state.count).tolist() == [2.0, 4.0]
    weights, after, status = igb.weigh(losses, igb.unpack(igb.pack(state), 2), Step(4, 2))
    assert status == "ok"
    assert weights.tolist() == pytest.approx([2 * 0.377541, 2 * 0.622459 / 4], abs=1e-6)
    assert after.count == 2
    with pytest.raises(OutOfDomain, match="negative"):
        igb.weigh(Losses(-losses), state, Step(4, 2))


def test_tasks_that_learn_alike_share_a_weight() -> None:
    """By hand: p goes from 1/3 each to shares of exp(-0.1 l); q = p sum l / l; the two nearest q are averaged."""
    method = methods.build("go4align", eta=0.1)
    losses = Losses(torch.tensor([1.0, 4.0, 5.0], dtype=torch.float64))
    p = np.exp([-0.1, -0.4, -0.5])
    state = method.init(3)
    for repeats in (1, 2):
        shares = p**repeats / (p**repeats).sum()
        q = shares * 10 / losses.numpy()
        weights, state, _ = method.weigh(losses, state, Step(repeats - 1))
        assert weights.tolist() == pytest.approx([q[0], (q[1] + q[2]) / 2, (q[1] + q[2]) / 2])
    alone = methods.build("go4align", eta=0.1, groups=3).weigh(losses, method.init(3), Step()).weights
    assert alone.tolist() == pytest.approx(list(p / p.sum() * 10 / losses.numpy()))
    one = methods.build("go4align", eta=0.1, groups=1).weigh(losses, method.init(3), Step()).weights
    assert one.tolist() == pytest.approx([float(alone.mean())] * 3)
