"""Weights computed once by hand or by independent solvers, for three small sets of gradients; six printed digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize

from mtlfleet import methods
from mtlfleet.engine.gradients import Gram, Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.linalg.surgery import raise_cosines
from mtlfleet.methods.loss.famo import FAMO
from mtlfleet.methods.tchebycheff import Nadir

F2 = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
F3 = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 2.0]], dtype=torch.float64)
FD = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)

THIRD = 1 / 3
TABLE = [
    ("sum", {}, (1, 1), (1, 1, 1), (1, 1)),
    ("mgda", {}, (0.6, 0.4), (0.096774, 0.688172, 0.215054), (0.6, 0.4)),
    ("pcgrad", {}, (2, 1.5), (1.25, 1, 1.8), (2.222222, 1.578947)),
    ("upgrad", {}, (1, 0.75), (0.416667, 0.333333, 0.6), (1.111111, 0.789474)),
    ("cagrad", {"c": 0.4}, (0.7, 0.5), (0.333333, 0.788753, 0.424417), (0.663299, 0.5)),
    ("cagrad", {"c": 0.5}, (0.75, 0.5), (0.333333, 0.902608, 0.447188), (0.704124, 0.5)),
    ("cagrad", {"c": 0}, (0.5, 0.5), (THIRD, THIRD, THIRD), (0.5, 0.5)),
    ("imtl_g", {}, (0.585786, 0.414214), (0.2, 0.442229, 0.357771), (0.592330, 0.407670)),
    ("nash_mtl", {"max_norm": None}, (1.847759, 1.306563), (0.336249, 1, 0.601501), (0.591461, 0.407071)),
    ("dualproj", {}, (0.5, 0.5), (THIRD, THIRD, THIRD), (0.611111, 0.5)),
    ("gradvac", {}, (2, 1.5), (1.25, 1, 1.8), (2.222222, 1.578947)),  # first targets are zero: pcgrad
    ("imtl", {}, (0.585786, 0.414214), (0.2, 0.442229, 0.357771), (0.592330, 0.407670)),  # first scales are one
    ("fairgrad", {"alpha": 0.5}, (1.564747, 1.156322), (0.469093, 1, 0.740254), (0.742828, 0.525393)),
    ("fairgrad", {"alpha": 1.0}, (1.847759, 1.306563), (0.336249, 1, 0.601501), (0.591461, 0.407071)),
    ("fairgrad", {}, (2.174053, 1.495842), (0.246968, 1, 0.484813), (0.471363, 0.319454)),
    ("mgda_ub", {}, (0.6, 0.4), (0.096774, 0.688172, 0.215054), (0.6, 0.4)),  # the representation is what is trained
    ("imtl_ub", {}, (0.585786, 0.414214), (0.2, 0.442229, 0.357771), (0.592330, 0.407670)),
    ("config", {}, (1.207107, 0.853553), (0.708644, 1.566915, 1.267661), (1.226483, 0.844124)),
    (
        "aligned_mtl",
        {"preference": "mean"},
        (0.552786, 0.414590),
        (0.116449, 0.333333, 0.191799),
        (0.559072, 0.408261),
    ),
]


@pytest.mark.parametrize(
    ("name", "params", "two", "three", "doc"), TABLE, ids=lambda v: v if isinstance(v, str) else ""
)
def test_weights(name, params, two, three, doc) -> None:
    for jacobian, expected in ((F2, two), (F3, three), (FD, doc)):
        found = methods.weights(name, jacobian, **params)
        assert found.tolist() == pytest.approx(expected, abs=6e-7)
        torch.testing.assert_close(methods.combine(name, jacobian, **params), found @ jacobian)


UPDATES = [
    ("dualproj", {}, (0, 0.5)),
    ("config", {}, (0.353553, 0.853553)),
    ("fairgrad", {"alpha": 1.0}, (0.541196, 1.306563)),
    ("sum", {}, (0, 1)),
    ("mgda", {}, (0.2, 0.4)),
    ("pcgrad", {}, (0.5, 1.5)),
    ("upgrad", {}, (0.25, 0.75)),
    ("cagrad", {"c": 0.4}, (0.2, 0.5)),
    ("cagrad", {"c": 0.5}, (0.25, 0.5)),
    ("nash_mtl", {"max_norm": None}, (0.541196, 1.306563)),
    ("aligned_mtl", {"preference": "mean"}, (0.138197, 0.414590)),
]


@pytest.mark.parametrize(("name", "params", "update"), UPDATES, ids=lambda v: v if isinstance(v, str) else "")
def test_update(name, params, update) -> None:
    assert methods.combine(name, F2, **params).tolist() == pytest.approx(update, abs=6e-7)


def test_common_products_on_the_minimum_norm_point() -> None:
    update = methods.combine("mgda", F3)
    assert (F3 @ update).tolist() == pytest.approx([0.688172] * 3, abs=6e-7)
    assert float(update @ update) == pytest.approx(0.688172, abs=6e-7)


def test_loss_weightings_at_one_and_four() -> None:
    losses = torch.tensor([1.0, 4.0], dtype=torch.float64)
    assert methods.weights("si", F2, losses).tolist() == pytest.approx([1, 0.25])
    uw = methods.build("uw")
    state = uw.init(2)
    assert float((0.5 * (torch.exp(-state.value) * losses + state.value)).sum()) == 2.5
    decision = uw.weigh(Losses(losses), state, Step())
    assert decision.weights.tolist() == [0.5, 0.5]
    # Adam's first moment after one step is a tenth of the gradient: (0, -1.5)
    assert (decision.state.first / 0.1).tolist() == pytest.approx([0, -1.5])


def test_uncertainty_settles_at_the_logarithm_of_the_loss() -> None:
    losses = Losses(torch.tensor([1.0, 4.0], dtype=torch.float64))
    uw = methods.build("uw", lr_s=0.01)
    state = uw.init(2)
    for number in range(1000):
        state = uw.weigh(losses, state, Step(number)).state
    assert state.value.tolist() == pytest.approx([0, math.log(4)], abs=1e-3)
    objective = float((0.5 * (torch.exp(-state.value) * losses + state.value)).sum())
    assert objective == pytest.approx(1.693147, abs=1e-6)


def test_dynamic_weights_for_ratios_a_half_and_one() -> None:
    dwa = methods.build("dwa")
    state = dwa.init(2)
    for number, losses in enumerate([[1.0, 3.0], [3.0, 1.0], [0.5, 1.5], [1.5, 2.5]]):  # epoch means (2, 2), (1, 2)
        found, state, _ = dwa.weigh(Losses(torch.tensor(losses, dtype=torch.float64)), state, Step(number, number // 2))
        assert found.tolist() == [1, 1]
    found, state, _ = dwa.weigh(Losses(torch.ones(2, dtype=torch.float64)), state, Step(4, 2))
    assert found.tolist() == pytest.approx([0.875647, 1.124353], abs=6e-7)


def as_losses(*values: float) -> Losses:
    return Losses(torch.tensor(values, dtype=torch.float64))


def test_geometric_mean_and_dual_balancing() -> None:
    losses = as_losses(1, 4)
    assert methods.weights("gls", F2, losses).tolist() == pytest.approx([1, 0.25])
    assert float(torch.exp(losses.log().mean())) == pytest.approx(2)
    found = methods.weights("db_mtl", F2, log_losses=False)
    assert found.tolist() == pytest.approx([1.414214, 1], abs=6e-7)


def test_products_of_independent_batches() -> None:
    """On one batch: sdmgrad solved exactly is the shortest combination; modo takes one step from equality."""
    assert methods.weights("sdmgrad", F2, lam=0.3).tolist() == pytest.approx([0.6, 0.4], abs=6e-7)
    method = methods.build("sdmgrad", lam=0.3)
    state, _ = method.step(DenseGradients(F2, earlier=[F2, F2]), method.init(2), Step())
    assert state.weights.tolist() == pytest.approx([0.63, 0.37], abs=6e-7)
    assert methods.weights("modo", F2, gamma=0.1, rho=0.0).tolist() == pytest.approx([0.525, 0.475])


def test_two_batches_of_modo_step_along_their_mean() -> None:
    other = torch.tensor([[0.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    method = methods.build("modo@two_batches", gamma=0.1, rho=0.0)
    assert method.batches == 2
    grads = DenseGradients(F2, earlier=[other])
    state, _ = method.step(grads, method.init(2), Step())
    # products [[0, 2], [1, -1]] times (1/2, 1/2) = (1, 0); a tenth of it off, and back on the simplex by 0.05 each
    assert state.weights.tolist() == pytest.approx([0.45, 0.55])
    assert grads.direction().tolist() == pytest.approx((state.weights @ (F2 + other) / 2).tolist())


def test_smooth_tchebycheff_at_ratios_one_and_two() -> None:
    losses, state = as_losses(1, 2), Nadir(torch.ones(2, dtype=torch.float64), 1)
    for mu, value, expected in ((1.0, 2.197225, (2 / 3, 2 / 3)), (0.1, 1.386490, (0.00195, 0.99902))):
        found = methods.build("stch_mtl", mu=mu, warmup_epochs=0).weigh(losses, state, Step(1, 1)).weights
        assert found.tolist() == pytest.approx(expected, abs=6e-6)
        assert float(2 * mu * torch.logsumexp(losses.log() / mu, 0)) == pytest.approx(value, abs=6e-7)


def test_famo_first_step_and_first_observation() -> None:
    famo, losses = FAMO(gamma=0.0), as_losses(1, 4)
    weights, state, _ = famo.weigh(losses, famo.init(2), Step())
    assert weights.tolist() == pytest.approx([0.8, 0.2])
    after = famo.observe(losses, as_losses(0.9, 3.9), state, Step())
    assert (after.first / 0.1).tolist() == pytest.approx([0.020011, -0.020011], abs=6e-7)
    assert after.value.tolist() == pytest.approx([-0.025, 0.025], abs=1e-7)


def test_gradnorm_slopes() -> None:
    gradnorm = methods.build("gradnorm")
    decision = gradnorm.weigh(Gram(F2 @ F2.T), as_losses(1, 1), gradnorm.init(2), Step())
    assert decision.weights.tolist() == [1, 1]
    assert (decision.state.weights.first / 0.1).tolist() == pytest.approx([-1, 1.414214], abs=6e-7)
    assert float(decision.state.weights.value.sum()) == pytest.approx(2)


def test_a_gradient_turned_to_a_cosine_of_a_fifth() -> None:
    target = np.array([[0.0, 0.2], [0.2, 0.0]])
    turned, _ = raise_cosines((F2 @ F2.T).numpy(), np.array([[1], [0]]), target)
    first = torch.from_numpy(turned[0]) @ F2
    assert first.tolist() == pytest.approx([0.397938, 0.602062], abs=6e-7)
    assert float(first @ F2[1] / first.norm() / F2[1].norm()) == pytest.approx(0.2)


def test_one_sign_passes_at_a_coordinate_in_conflict() -> None:
    found = torch.stack([methods.combine("graddrop", F2, seed=seed) for seed in range(400)])
    assert set(found[:, 0].tolist()) == {-1.0, 1.0}
    assert found[:, 1].tolist() == [1.0] * 400
    assert abs(float(found[:, 0].mean())) < 4 / 400**0.5
    assert methods.combine("graddrop", F2, leak=1.0).tolist() == [0, 1]


STRETCHED = torch.tensor([[3.0], [0.2]], dtype=torch.float64) * F2


def test_fair_shares_of_stretched_gradients_are_scipys() -> None:
    """The specification's table has a cosine of 0.413 between these two updates; the equation itself gives 0.972."""
    updates = []
    for rows in (F2, STRETCHED):
        gram = (rows @ rows.T).numpy()
        solved = optimize.root(lambda log: gram @ np.exp(log) - np.exp(-log / 2), np.zeros(2), tol=1e-13)  # noqa: B023
        assert solved.success
        found = methods.weights("fairgrad", rows, alpha=2.0)
        assert found.tolist() == pytest.approx(np.exp(solved.x).tolist(), rel=1e-8)
        updates.append(np.exp(solved.x) @ rows.numpy())
    one, other = updates
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) == pytest.approx(0.972, abs=6e-4)
