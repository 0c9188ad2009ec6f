"""Methods that keep gradients of earlier steps, or compare batches: against sums written out by hand or in full."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtlfleet import methods
from mtlfleet.engine.gradients import Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.linalg.simplex import nearest_shares, towards_mean
from mtlfleet.methods.base import OutOfDomain

F2 = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
LOSSES = torch.tensor([1.0, 4.0], dtype=torch.float64)
MANY = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def gradients(tasks: int, seed: int, columns: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, columns, generator=generator, dtype=torch.float64)


def walk(name: str, jacobians: list[Tensor], losses: Tensor, *, epochs: list[int] | None = None, **params):
    """Updates [P] of consecutive steps, the last state and word."""
    method = methods.build(name, **params)
    state, found, word = method.init(len(losses)), [], ""
    for number, jacobian in enumerate(jacobians):
        grads = DenseGradients(jacobian, losses)
        state, word = method.step(grads, state, Step(number, epochs[number] if epochs else 0))
        found.append(grads.direction())
    return found, state, word


@MANY
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.integers(-12, 12))
def test_the_nearest_shares_are_a_threshold(values: list[float], power: int) -> None:
    """w = max(v - t, 0) with sum 1 is the projection: its optimality conditions, and no other point meets them."""
    point = np.array(values) * 10.0**power
    shares = nearest_shares(point)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert (shares >= 0).all()
    cut = (point - shares)[shares > 0]
    slack = 1e-12 * (1 + np.abs(point).max())
    assert np.ptp(cut) <= slack
    assert (point[shares == 0] <= cut.max() + slack).all()


def test_moco_by_hand() -> None:
    (first, second), state, _ = walk("moco", [F2, F2], LOSSES)
    # y = g/2, Y Y^T w = (0, 1/8), w = (1/2, 39/80) + 1/160
    assert first.tolist() == pytest.approx([0.00625, 0.246875])
    rate = math.sqrt(0.5) / 2  # beta / sqrt(2)
    y = 0.5 + rate * 0.5  # what is tracked of g
    w = torch.tensor([0.50625, 0.49375], dtype=torch.float64)
    moved = w - 0.1 * math.sqrt(0.5) * y**2 * (F2 @ F2.T @ w)
    w = moved + (1 - moved.sum()) / 2
    torch.testing.assert_close(state.weights, w)
    torch.testing.assert_close(second, y * (w @ F2))


def test_moco_of_the_library_by_hand() -> None:
    (first,), state, _ = walk("moco@libmtl", [F2], LOSSES)
    y = 0.5 * torch.tensor([[1.0, 0.0], [-4 / 2**0.5, 4 / 2**0.5]], dtype=torch.float64)
    w = torch.softmax(0.5 - 0.1 * (y @ y.T) @ torch.full((2,), 0.5, dtype=torch.float64), 0)
    torch.testing.assert_close(state.weights, w)
    torch.testing.assert_close(first, w @ y)
    assert not torch.allclose(walk("moco", [F2], LOSSES)[0][0], first)  # the paper's, by another norm and projection
    with pytest.raises(OutOfDomain, match="negative"):
        walk("moco@libmtl", [F2], -LOSSES)


@MANY
@given(seeds, st.integers(1, 6))
def test_moco_that_forgets_and_never_moves_is_the_mean(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    found, state, _ = walk("moco", [rows, 2 * rows], torch.ones(tasks), beta=1.0, sigma_beta=0.0, gamma=0.0)
    torch.testing.assert_close(found[1], 2 * rows.mean(0))
    assert methods.build("moco").report(state) == {"weight": state.weights}


def test_moco_on_one_batch_finds_the_shortest_combination() -> None:
    rows = gradients(3, 5)
    rows = rows / rows.norm()
    found, state, _ = walk("moco", [rows] * 3000, torch.ones(3), sigma_beta=0.0, sigma_gamma=0.0, gamma=1.0)
    torch.testing.assert_close(state.weights, methods.weights("mgda", rows), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[-1], methods.combine("mgda", rows), rtol=0, atol=1e-6)


@MANY
@given(seeds, st.integers(1, 5), st.sampled_from([0.0, 0.5]))
def test_dual_balancing_averages_logarithms_gradients(seed: int, tasks: int, sigma: float) -> None:
    losses = torch.rand(tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    steps = [gradients(tasks, seed + n) for n in range(4)]
    found, state, _ = walk("db_mtl", steps, losses, beta=0.9, sigma=sigma)
    average = torch.zeros_like(steps[0])
    for number, rows in enumerate(steps):
        now = rows / losses[:, None]
        average = now + 0.9 / (number + 1) ** sigma * (average - now)
    lengths = average.norm(dim=1)
    torch.testing.assert_close(found[-1], (average * (lengths.max() / lengths)[:, None]).sum(0))
    torch.testing.assert_close(methods.build("db_mtl").report(state)["balance"], lengths.max() / lengths)


def test_dual_balancing_starts_from_nothing_and_skips_zero_gradients() -> None:
    plain = methods.combine("db_mtl", F2, LOSSES)
    torch.testing.assert_close(methods.combine("db_mtl", F2, LOSSES, beta=0.9), 0.1 * plain)
    found, state, word = walk("db_mtl@libmtl", [torch.stack([torch.zeros(2), F2[1]])], LOSSES)
    assert word == "zero_gradient"
    assert state.balance.tolist() == [0, 1]
    torch.testing.assert_close(found[0], 0.1 * F2[1] / 4)


def test_excess_risks_by_hand() -> None:
    (first, second), state, _ = walk("excess_mtl", [F2, F2], LOSSES)
    assert state.first.tolist() == pytest.approx([1, 2], rel=1e-6)  # |g|_1
    torch.testing.assert_close(first, F2.sum(0))
    torch.testing.assert_close(second, F2.sum(0))  # both risks fell by sqrt(2): the ratios are equal
    (_, third), state, _ = walk("excess_mtl", [F2, torch.stack([F2[0], 0.5 * F2[1]])], LOSSES)
    risks = torch.tensor([1 / 2**0.5, 2 * 0.25 / 1.25**0.5 / 2], dtype=torch.float64)
    weights = 2 * torch.softmax(risks, 0)
    torch.testing.assert_close(third, weights @ torch.stack([F2[0], 0.5 * F2[1]]), rtol=1e-6, atol=1e-6)


def test_excess_risks_after_a_warm_up_and_of_a_task_that_comes_later() -> None:
    late = torch.stack([F2[0], torch.zeros(2, dtype=torch.float64)])
    _, state, word = walk("excess_mtl@paper", [F2] * 4, LOSSES, epochs=[0, 1, 2, 3])
    mean = sum(1 / math.sqrt(n) for n in (1, 2, 3)) / 3
    assert (state.first / state.counted).tolist() == pytest.approx([mean, 2 * mean], rel=1e-6)
    assert (state.counted, word) == (3, "ok")
    _, state, word = walk("excess_mtl", [late], LOSSES)
    assert word == "zero_gradient"
    _, state, word = walk("excess_mtl", [late, F2, F2], LOSSES)
    assert word == "ok"
    # task 0: 1/sqrt(2) and 1/sqrt(3); task 1 starts at the second step: only 1/sqrt(2) of its own first risk
    shares = torch.softmax(torch.tensor([2**-0.5 + 3**-0.5, 2**-0.5], dtype=torch.float64), 0)
    torch.testing.assert_close(state.logs.exp(), shares, rtol=1e-6, atol=1e-6)


@MANY
@given(seeds, st.floats(1e-2, 1e2))
def test_units_of_a_loss_do_not_matter_to_excess_risks(seed: int, unit: float) -> None:
    steps = [100 * gradients(3, seed + n) for n in range(3)]  # far above what is added under the root
    scale = torch.tensor([1.0, unit, 1.0], dtype=torch.float64)[:, None]
    _, one, _ = walk("excess_mtl", steps, torch.ones(3))
    _, two, _ = walk("excess_mtl", [rows * scale for rows in steps], torch.ones(3))
    torch.testing.assert_close(one.logs, two.logs, rtol=1e-5, atol=1e-5)


@MANY
@given(seeds, st.integers(1, 6))
def test_dropped_signs_are_stretched_to_the_sum(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    dropped, stretched = methods.combine("graddrop", rows), methods.combine("graddrop@kurin", rows)
    assert float(stretched.norm()) == pytest.approx(float(rows.sum(0).norm()))
    torch.testing.assert_close(stretched / stretched.norm(), dropped / dropped.norm())


@MANY
@given(seeds, st.integers(2, 8), st.sampled_from([0.0, 0.1, 0.3, 2.0]))
def test_held_near_the_mean_no_weight_is_small(seed: int, tasks: int, lam: float) -> None:
    """On one batch the exact direction is the shortest combination with weights of at least lam / K / (1 + lam)."""
    rows = gradients(tasks, seed) - 0.2
    found = methods.weights("sdmgrad", rows, lam=lam)
    floor = lam / tasks / (1 + lam)
    assert (found >= floor - 1e-12).all()
    slopes = rows @ (found @ rows)
    free = slopes[found > floor + 1e-9]
    scale = float(rows.norm(dim=1).max()) ** 2
    assert float(free.max() - free.min()) <= 1e-8 * scale
    assert float(slopes.min()) >= float(free.min()) - 1e-8 * scale


def test_a_strong_hold_is_the_mean_and_the_loop_of_the_authors_is_far_off() -> None:
    rows = gradients(4, 3)
    torch.testing.assert_close(methods.combine("sdmgrad", rows, lam=1e9), rows.mean(0), rtol=1e-6, atol=1e-6)
    exact = methods.weights("sdmgrad", F2)
    assert exact.tolist() == pytest.approx([0.6, 0.4])
    loop = methods.weights("sdmgrad", F2, solver="loop")
    assert loop.tolist() == pytest.approx([0.15 / 1.3, 1.15 / 1.3])  # w = (0, 1)
    update = methods.combine("sdmgrad@official_loop", F2)
    torch.testing.assert_close(update, (loop @ F2) / (loop @ F2).norm())
    slow = methods.weights("sdmgrad", F2, solver="loop", lr=0.05, iterations=5000)
    torch.testing.assert_close(slow, exact, rtol=0, atol=1e-9)


def test_which_batch_does_what() -> None:
    """Weights from the first two batches, the update from the third."""
    first, second, third = (gradients(3, n) for n in (1, 2, 3))
    modo, grads = methods.build("modo"), DenseGradients(third, earlier=[first, second])
    state, _ = modo.step(grads, modo.init(3), Step())
    w = torch.full((3,), 1 / 3, dtype=torch.float64)
    expected = nearest_shares((w - 0.1 * (first @ second.T @ w + 0.1 * w)).numpy())
    assert state.weights.tolist() == pytest.approx(expected.tolist())
    torch.testing.assert_close(grads.direction(), state.weights @ third)
    sdmgrad, grads = methods.build("sdmgrad"), DenseGradients(third, earlier=[first, second])
    state, word = sdmgrad.step(grads, sdmgrad.init(3), Step())
    assert word == "ok"
    assert state.weights.tolist() == pytest.approx(towards_mean((first @ second.T).numpy(), 0.3).tolist())
    torch.testing.assert_close(grads.direction(), (state.weights + 0.1) / 1.3 @ third)
    opposed = DenseGradients(third, earlier=[first, -first])
    assert sdmgrad.step(opposed, sdmgrad.init(3), Step())[1] == "no_scale"


def test_modo_without_steps_is_the_mean() -> None:
    rows = gradients(5, 2)
    torch.testing.assert_close(methods.combine("modo", rows, gamma=0.0), rows.mean(0))
    assert methods.weights("modo", F2, rho=0.0).tolist() == pytest.approx([0.525, 0.475])


def test_sampled_tasks_and_their_scale() -> None:
    rows = gradients(6, 4)
    method = methods.build("sdmgrad_os", sampled=2, lr=1e-12)  # weights stay equal
    found = []
    for number in range(400):
        grads = DenseGradients(rows)
        method.step(grads, method.init(6), Step(number))
        found.append(grads.weights)
    drawn = torch.stack([w for w in found if w is not None])
    counts = (drawn > 0).sum(1)
    assert counts.min() == 1
    assert float(counts.double().mean()) == pytest.approx(2 / (1 - (2 / 3) ** 6), abs=0.2)
    assert drawn[drawn > 0].tolist() == pytest.approx([0.5] * int(counts.sum()))  # (K / n) / K
    everyone = methods.weights("sdmgrad_os", rows, sampled=9)
    torch.testing.assert_close(everyone, methods.weights("sdmgrad", rows, solver="loop", lam=0.6))
