"""Where methods have nothing good to do, they say so; where they are given nonsense, they refuse it by name."""

from __future__ import annotations

import pickle

import pytest
import torch

from mtlfleet import methods
from mtlfleet.engine.gradients import Gram, Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods.base import OutOfDomain
from mtlfleet.methods.private import Private


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def word(name: str, jacobian: torch.Tensor, **params) -> tuple[str, list[float]]:
    """The method's status and its update."""
    method, grads = methods.build(name, **params), DenseGradients(jacobian)
    _, status = method.step(grads, method.init(len(jacobian)), Step())
    return status, grads.direction().tolist()


OPPOSED = rows([1.0, 2.0], [-2.0, -4.0])
STATIONARY = rows([1.0, 0.0], [-0.5, 1.0], [-0.5, -1.0])
WITH_ZERO = rows([0.0, 0.0], [1.0, 1.0], [1.0, -0.5])
ZERO = rows([0.0, 0.0], [0.0, 0.0])
UPHILL = rows([0.0, 0.0, 1.0], [0.0, -1.0, 2.0], [-1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "jacobian", "status"),
    [
        ("mgda", OPPOSED, "stationary"),
        ("mgda", STATIONARY, "stationary"),
        ("mgda", WITH_ZERO, "stationary_by_zero_grad"),
        ("mgda", ZERO, "stationary_by_zero_grad"),
        ("pcgrad", WITH_ZERO, "zero_gradient"),
        ("cagrad", STATIONARY, "stationary"),
        ("cagrad", WITH_ZERO, "stationary"),
        ("cagrad", ZERO, "stationary"),
        ("imtl_g", WITH_ZERO, "zero_gradient"),
        ("imtl_g", rows([1.0, 0.0], [1.0, 0.0], [0.0, 1.0]), "rank_deficient"),
        ("imtl_g", rows([1.0, 0.0], [-1.0, 0.0]), "stationary"),
        ("imtl_g", ZERO, "stationary"),
        ("nash_mtl", OPPOSED, "stationary"),
        ("nash_mtl", STATIONARY, "stationary"),
        ("nash_mtl", WITH_ZERO, "zero_gradient"),
        ("nash_mtl", ZERO, "stationary"),
        ("aligned_mtl", WITH_ZERO, "rank_deficient"),
        ("aligned_mtl", OPPOSED, "rank_deficient"),
        ("aligned_mtl", ZERO, "stationary"),
        ("upgrad", OPPOSED, "stationary"),
        ("upgrad", STATIONARY, "stationary"),
        ("upgrad", ZERO, "stationary"),
    ],
)
def test_the_solvers_word(name: str, jacobian: torch.Tensor, status: str) -> None:
    assert word(name, jacobian)[0] == status


@pytest.mark.parametrize("name", ["mgda", "pcgrad", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad"])
def test_independent_gradients_are_ok(name: str) -> None:
    assert word(name, rows([1.0, 0.0, 0.0], [0.1, 1.0, 0.0], [-0.2, 0.1, 1.0]))[0] == "ok"


def test_stationary_updates_vanish() -> None:
    for name in ("mgda", "upgrad", "nash_mtl"):
        assert word(name, STATIONARY)[1] == pytest.approx([0, 0], abs=1e-4)
    assert word("mgda", WITH_ZERO)[1] == [0, 0]


def test_cagrad_without_a_direction_of_its_own() -> None:
    assert word("cagrad", WITH_ZERO)[1] == pytest.approx(WITH_ZERO.mean(0).tolist())
    assert word("cagrad", WITH_ZERO, stationary="zero") == ("stationary", [0, 0])


def test_zero_gradients_are_left_out_of_the_bargain() -> None:
    alive = methods.weights("nash_mtl", WITH_ZERO[1:], max_norm=None)
    assert methods.weights("nash_mtl", WITH_ZERO, max_norm=None).tolist() == [0, *alive.tolist()]


def test_impartial_solution_can_point_uphill() -> None:
    faithful, found = word("imtl_g", UPHILL)
    assert faithful == "uphill"
    assert (UPHILL @ torch.tensor(found, dtype=torch.float64) < 0).all()
    flipped = word("imtl_g", UPHILL, sign_guard="flip")
    assert flipped == ("uphill", pytest.approx([-x for x in found]))
    assert word("imtl_g", UPHILL, sign_guard="fallback_mean") == ("uphill", pytest.approx(UPHILL.mean(0).tolist()))


def test_a_non_positive_loss_under_mgdas_loss_norm() -> None:
    with pytest.raises(OutOfDomain, match=r"loss\+"):
        methods.weights("mgda@official", torch.eye(2), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("name", ["si", "uw"])
def test_a_negative_loss_is_refused_with_its_step(name: str) -> None:
    method = methods.build(name)
    losses = Losses(torch.tensor([1.0, -0.5], dtype=torch.float64))
    with pytest.raises(OutOfDomain, match=r"step 7.*-0\.5") as caught:
        method.weigh(losses, method.init(2), Step(7))
    assert caught.value.help
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_loss_of_zero_has_a_finite_weight_and_is_reported() -> None:
    decision = methods.build("si").weigh(Losses(torch.tensor([0.0, 2.0], dtype=torch.float64)), None, Step())
    assert decision.weights.tolist() == [1e8, 0.5]
    assert decision.status == "loss_at_floor"


def test_allowed_negative_losses_stop_at_the_floor() -> None:
    uw = methods.build("uw", allow_negative=True, lr_s=1.0)
    state = uw.init(1)
    for number in range(60):
        state = uw.weigh(Losses(torch.tensor([-1.0], dtype=torch.float64)), state, Step(number)).state
    assert state.value.tolist() == [-10]


def test_dwa_survives_zero_and_reports_negative_means() -> None:
    dwa, state = methods.build("dwa"), methods.build("dwa").init(2)
    for epoch, losses in enumerate([[0.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]]):
        decision = dwa.weigh(Losses(torch.tensor(losses, dtype=torch.float64)), state, Step(epoch, epoch))
        state = decision.state
        if epoch == 2:
            assert (decision.weights.tolist(), decision.status) == ([1, 1], "ok")
    assert decision.status == "loss_not_positive"


def test_dwa_tends_to_equal_weights_with_temperature() -> None:
    dwa, state = methods.build("dwa", temperature=1e9), methods.build("dwa").init(2)
    for epoch, losses in enumerate([[1.0, 1.0], [0.1, 2.0], [1.0, 1.0]]):
        found, state, _ = dwa.weigh(Losses(torch.tensor(losses, dtype=torch.float64)), state, Step(epoch, epoch))
    assert found.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("given", [(1.0, -1.0), (0.0, 0.0), (float("nan"), 1.0)])
def test_linear_refuses_meaningless_weights(given: tuple[float, ...]) -> None:
    with pytest.raises(OutOfDomain):
        methods.build("linear", weights=given)


def test_weights_for_another_number_of_tasks() -> None:
    for name, params in (
        ("linear", {"weights": (1, 2)}),
        ("upgrad", {"p": (1, 2)}),
        ("aligned_mtl", {"preference": [1, 2]}),
    ):
        with pytest.raises(OutOfDomain, match="3 tasks"):
            methods.weights(name, torch.eye(3), **params)
    with pytest.raises(OutOfDomain, match="one task"):
        methods.weights("stl", torch.eye(2))


def test_weights_of_zero_drop_a_task() -> None:
    assert methods.weights("linear", torch.eye(3), weights=[0, 1, 1]).tolist() == [0, 1.5, 1.5]


def test_lists_from_a_study_file_make_equal_methods() -> None:
    assert methods.build("linear", weights=[1, 2]) == methods.build("linear", weights=(1.0, 2.0))
    assert hash(methods.build("upgrad", p=[1, 2])) == hash(methods.build("upgrad", p=(1, 2)))


def test_nash_reuses_its_weights_without_asking_for_the_gram() -> None:
    class Refusing(DenseGradients):
        def gram(self) -> Gram:
            raise AssertionError("asked for the Gram on a reuse step")

    nash = methods.build("nash_mtl", update_weights_every=3)
    generator = torch.Generator().manual_seed(0)
    jacobians = [torch.randn(3, 9, generator=generator, dtype=torch.float64) for _ in range(5)]
    state, used, statuses = nash.init(3), [], []
    for number, jacobian in enumerate(jacobians):
        grads = DenseGradients(jacobian) if number % 3 == 0 else Refusing(jacobian)
        state, status = nash.step(grads, state, Step(number))
        used.append(state.weights)
        statuses.append(status)
    assert statuses == ["ok", "reused", "reused", "ok", "reused"]
    assert torch.equal(used[0], used[2])
    assert torch.equal(used[3], used[4])
    assert torch.equal(used[3], methods.weights("nash_mtl", jacobians[3]))


def test_nash_of_the_authors_code_weights_the_heads() -> None:
    assert methods.build("nash_mtl").heads == "unweighted"
    assert methods.build("nash_mtl@official").heads == "weighted"


def test_private_parameters_move_as_under_torchs_adam() -> None:
    theirs = torch.nn.Parameter(torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64))
    optimizer = torch.optim.Adam([theirs], lr=0.05)
    ours = Private.start(theirs.detach().clone())
    for number in range(50):
        gradient = torch.sin(torch.arange(3, dtype=torch.float64) + number)
        theirs.grad = gradient.clone()
        optimizer.step()
        ours = ours.descend(gradient, 0.05)
    torch.testing.assert_close(ours.value, theirs.detach(), rtol=1e-12, atol=1e-14)


DISTRIBUTIONS = ("normal", "uniform", "random_normal", "dirichlet", "bernoulli", "constrained_bernoulli")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_random_weights_lie_on_their_simplex(distribution: str) -> None:
    rlw, native = (methods.build(name, distribution=distribution) for name in ("rlw", "rlw@native"))
    losses = Losses(torch.ones(4, dtype=torch.float64))
    drawn = torch.stack([rlw.weigh(losses, None, Step(n, seed=5)).weights for n in range(2000)])
    assert (drawn >= 0).all()
    torch.testing.assert_close(drawn.sum(1), torch.full((2000,), 4.0, dtype=torch.float64))
    assert native.weigh(losses, None, Step(3, seed=5)).weights.tolist() == pytest.approx((drawn[3] / 4).tolist())
    assert len(torch.unique(drawn, dim=0)) > 3
    means = drawn.mean(0)
    if distribution == "random_normal":  # its means differ by task, and by run
        other = torch.stack([rlw.weigh(losses, None, Step(n, seed=6)).weights for n in range(2000)]).mean(0)
        assert float((means - other).abs().max()) > 0.05
    else:
        assert means.tolist() == pytest.approx([1] * 4, abs=5 * float(drawn.std(0).max()) / 2000**0.5)


def test_random_subsets_and_single_tasks() -> None:
    losses = Losses(torch.ones(3, dtype=torch.float64))
    for distribution, sizes in (("bernoulli", {1, 2, 3}), ("constrained_bernoulli", {1})):
        rlw = methods.build("rlw", distribution=distribution)
        drawn = [rlw.weigh(losses, None, Step(n)).weights for n in range(100)]
        assert {int((w > 0).sum()) for w in drawn} == sizes
        assert all(len(set(w[w > 0].tolist())) == 1 for w in drawn)
