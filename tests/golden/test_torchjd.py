"""TorchJD as an independent implementation: same gradients in, same weights out, within its own tolerances."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlfleet import methods, testing
from mtlfleet.engine.gradients import Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.errors import UnknownName
from mtlfleet.linalg.surgery import raise_cosines, remove_conflicts
from mtlfleet.methods.aggregator import MethodAggregator
from mtlfleet.methods.base import OutOfDomain
from mtlfleet.methods.draws import uniform
from mtlfleet.plan.streams import stream

aggregation = pytest.importorskip("torchjd.aggregation")
scalarization = pytest.importorskip("torchjd.scalarization")

seeds = st.integers(0, 2**31)
FEW = settings(max_examples=25, deadline=None)


def jacobian(tasks: int, seed: int, parameters: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, parameters, generator=generator, dtype=torch.float64)
    return rows + 0.3 * torch.randn(parameters, generator=generator, dtype=torch.float64)


@FEW
@given(seeds, st.integers(1, 12))
def test_imtl_g(seed: int, tasks: int) -> None:
    rows = jacobian(tasks, seed)
    theirs = aggregation.IMTLGWeighting()(rows @ rows.T)
    torch.testing.assert_close(methods.weights("imtl_g", rows), theirs, rtol=1e-7, atol=1e-9)


@FEW
@given(seeds, st.integers(1, 12), st.sampled_from(["min", "median", "rmse"]))
def test_aligned_mtl(seed: int, tasks: int, mode: str) -> None:
    rows = jacobian(tasks, seed)
    theirs = aggregation.AlignedMTLWeighting(scale_mode=mode)(rows @ rows.T)
    ours = methods.weights("aligned_mtl@torchjd", rows, scale_mode=mode)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@FEW
@given(seeds, st.integers(2, 6))
def test_mgda_is_no_longer_than_frank_wolfe(seed: int, tasks: int) -> None:
    rows = jacobian(tasks, seed)
    ours, theirs = methods.weights("mgda", rows), aggregation.MGDAWeighting()(rows @ rows.T)
    assert (ours @ rows).norm() <= (theirs @ rows).norm() * (1 + 1e-12)
    assert (theirs @ rows).norm() <= (ours @ rows).norm() * 1.05  # its stopping rule leaves a few percent
    torch.testing.assert_close(methods.weights("mgda", rows, solver="fw"), theirs, rtol=1e-6, atol=1e-8)


@FEW
@given(seeds, st.integers(1, 10))
def test_pcgrad_in_the_same_order(seed: int, tasks: int) -> None:
    rows = jacobian(tasks, seed) - 0.2 * jacobian(1, seed + 1)
    gram = rows @ rows.T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = aggregation.PCGradWeighting()(gram)
        torch.manual_seed(seed)
        orders = [torch.randperm(tasks).tolist() for _ in range(tasks)]
    others = [[j for j in order if j != i] for i, order in enumerate(orders)]
    order = torch.tensor(others, dtype=torch.int64).reshape(tasks, tasks - 1)
    ours = torch.from_numpy(remove_conflicts(gram.numpy(), order.numpy()).sum(axis=0))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    if tasks == 2:
        torch.testing.assert_close(methods.weights("pcgrad", rows), theirs, rtol=1e-9, atol=1e-12)


@FEW
@given(seeds, st.integers(1, 10), st.sampled_from([1e-3, 1.0, 1e3]))
def test_upgrad_with_their_ridge_and_threshold(seed: int, tasks: int, size: float) -> None:
    pytest.importorskip("quadprog")
    rows = jacobian(tasks, seed) * size
    theirs = aggregation.UPGradWeighting()(rows @ rows.T)
    torch.testing.assert_close(methods.weights("upgrad@torchjd", rows), theirs, rtol=1e-6, atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(2, 8), st.sampled_from([0.2, 0.5, 0.9]))
def test_cagrad(seed: int, tasks: int, c: float) -> None:
    pytest.importorskip("cvxpy")
    rows = jacobian(tasks, seed)
    theirs = aggregation.CAGradWeighting(c=c)(rows @ rows.T)
    ours = methods.weights("cagrad", rows, c=c)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)  # what its conic solver's default tolerance leaves
    worst_off = (rows @ (ours @ rows)).min(), (rows @ (theirs @ rows)).min()
    assert worst_off[0] >= worst_off[1] * (1 - 1e-12)


@FEW
@given(seeds, st.integers(1, 12))
def test_config(seed: int, tasks: int) -> None:
    rows = jacobian(tasks, seed)
    torch.testing.assert_close(methods.combine("config", rows), aggregation.ConFIG()(rows), rtol=1e-7, atol=1e-9)


@FEW
@given(seeds, st.integers(1, 10), st.sampled_from([1e-3, 1.0, 1e3]))
def test_dualproj_with_their_ridge_and_threshold(seed: int, tasks: int, size: float) -> None:
    pytest.importorskip("quadprog")
    rows = jacobian(tasks, seed) * size
    theirs = aggregation.DualProjWeighting()(rows @ rows.T)
    torch.testing.assert_close(methods.weights("dualproj@torchjd", rows), theirs, rtol=1e-6, atol=1e-8)


@FEW
@given(seeds, st.integers(1, 8), st.sampled_from([0.5, 1.0, 2.0]))
def test_fairgrad(seed: int, tasks: int, alpha: float) -> None:
    rows = jacobian(tasks, seed, parameters=4 * tasks)
    rows = rows / rows.norm()
    theirs = aggregation.FairGradWeighting(alpha=alpha)(rows @ rows.T)
    torch.testing.assert_close(methods.weights("fairgrad", rows, alpha=alpha), theirs, rtol=1e-5, atol=1e-7)


@settings(max_examples=5, deadline=None)
@given(seeds, st.integers(2, 5))
def test_nash_mtl_where_their_sequence_converges(seed: int, tasks: int) -> None:
    """Gradients of one norm, as their stopping rule assumes; elsewhere their sequence may stop far off."""
    pytest.importorskip("cvxpy")
    pytest.importorskip("ecos")
    rows = jacobian(tasks, seed)
    rows = rows / rows.norm(dim=1, keepdim=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = aggregation.NashMTL(n_tasks=tasks, max_norm=0.0, optim_niter=100)(rows)
    ours = methods.combine("nash_mtl", rows, max_norm=None)
    torch.testing.assert_close(theirs / theirs.norm(), ours / ours.norm(), rtol=0, atol=2e-2)


@FEW
@given(seeds, st.integers(1, 8))
def test_gradvac_in_the_same_order_over_three_steps(seed: int, tasks: int) -> None:
    theirs, target = aggregation.GradVacWeighting(beta=0.5, eps=0.0), np.zeros((tasks, tasks))
    for step in range(3):
        rows = jacobian(tasks, seed + step) - 0.2 * jacobian(1, seed + step + 1)
        gram = rows @ rows.T
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            expected = theirs(gram)
            torch.manual_seed(step)
            orders = [torch.randperm(tasks - 1).tolist() for _ in range(tasks)]
        others = [[[j for j in range(tasks) if j != i][k] for k in order] for i, order in enumerate(orders)]
        turned, seen = raise_cosines(gram.numpy(), np.array(others, dtype=np.int64).reshape(tasks, tasks - 1), target)
        target = 0.5 * target + 0.5 * seen
        torch.testing.assert_close(torch.from_numpy(turned.sum(axis=0)), expected, rtol=1e-8, atol=1e-10)


@FEW
@given(seeds, st.integers(1, 6), st.sampled_from([0.0, 0.3, 1.0]))
def test_graddrop_with_the_same_draws(seed: int, tasks: int, leak: float) -> None:
    rows = jacobian(tasks, seed)
    drawn = uniform(stream(seed, "graddrop", 0), torch.arange(rows.shape[1]))
    with patch("torch.rand", lambda *_, **__: drawn):
        theirs = aggregation.GradDrop(leak=torch.full((tasks,), leak, dtype=torch.float64))(rows)
    torch.testing.assert_close(methods.combine("graddrop", rows, seed=seed, leak=leak), theirs, rtol=1e-10, atol=1e-12)


@FEW
@given(seeds, st.integers(1, 6), st.sampled_from([0.0, 0.1, 1.0]))
def test_modo_over_three_steps(seed: int, tasks: int, rho: float) -> None:
    theirs, ours = aggregation.MoDoWeighting(gamma=0.01, rho=rho), methods.build("modo", gamma=0.01, rho=rho)
    state = ours.init(tasks)
    for step in range(3):
        first, second = jacobian(tasks, seed + step), jacobian(tasks, seed + step + 7)
        grads = DenseGradients(jacobian(tasks, seed + 1), earlier=[first, second])
        state, _ = ours.step(grads, state, Step(step))
        torch.testing.assert_close(grads.weights, theirs(first @ second.T), rtol=1e-9, atol=1e-10)


@FEW
@given(seeds, st.integers(1, 6), st.sampled_from([1.0, 0.5, 0.1]))  # from 5 on the loop blows up rounding
def test_sdmgrad_by_the_loop_over_three_steps(seed: int, tasks: int, lr: float) -> None:
    theirs, ours = aggregation.SDMGradWeighting(lr=lr), methods.build("sdmgrad", solver="loop", lr=lr)
    state = ours.init(tasks)
    for step in range(3):
        first = 1e3 * jacobian(tasks, seed + step)  # so that what they add to the scale is nothing
        second = first + 300 * jacobian(tasks, seed + step + 7)
        grads = DenseGradients(jacobian(tasks, seed + 1), earlier=[first, second])
        state, _ = ours.step(grads, state, Step(step))
        torch.testing.assert_close(grads.weights, theirs(first @ second.T), rtol=1e-8, atol=1e-8)


@FEW
@given(seeds, st.integers(1, 6), st.sampled_from([1.0, 0.01]))
def test_excess_risks_over_four_steps(seed: int, tasks: int, eta: float) -> None:
    """One step of their warm-up makes their first risk a baseline, as in the authors' code."""
    theirs = aggregation.ExcessMTL(robust_step_size=eta, n_warmup_steps=1)
    ours = methods.build("excess_mtl", eta=eta)
    state = ours.init(tasks)
    for step in range(4):
        rows = jacobian(tasks, seed + step)
        grads = DenseGradients(rows)
        state, _ = ours.step(grads, state, Step(step))
        torch.testing.assert_close(grads.direction(), tasks * theirs(rows), rtol=1e-6, atol=1e-6)


def scalarized(scalarizer: torch.nn.Module, losses: torch.Tensor) -> torch.Tensor:
    """The weights [K] that a scalarizer puts on the task gradients: its own gradient."""
    leaf = losses.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scalarizer(leaf), leaf)
    return gradient


@FEW
@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=6), st.sampled_from([0.05, 0.5, 1.0]))
def test_scalarizations(values: list[float], mu: float) -> None:
    losses, rows = torch.tensor(values, dtype=torch.float64), torch.eye(len(values), dtype=torch.float64)
    close = torch.testing.assert_close
    close(methods.weights("gls", rows, losses), scalarized(scalarization.GeometricMean(), losses))
    close(methods.weights("stch", rows, losses, mu=mu), scalarized(scalarization.STCH(mu=mu), losses))
    close(methods.weights("imtl_l", rows, losses), scalarized(scalarization.IMTLL(len(values)).double(), losses))
    close(methods.weights("uw", rows, losses), scalarized(scalarization.UW(len(values)).double(), losses))


@FEW
@given(seeds, st.integers(2, 5))
def test_learned_scales_follow_theirs_under_adam(seed: int, tasks: int) -> None:
    """Ten steps of uw and imtl_l, the scales trained by torch's own Adam on the library's objective."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in (("uw", scalarization.UW(tasks)), ("imtl_l", scalarization.IMTLL(tasks))):
        module = module.double()
        optimizer, ours = torch.optim.Adam(module.parameters(), lr=0.025), methods.build(name)
        state = ours.init(tasks)
        for number in range(10):
            losses = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1
            expected = scalarized(module, losses)
            optimizer.zero_grad()
            module(losses).backward()
            optimizer.step()
            found, state, _ = ours.weigh(Losses(losses), state, Step(number))
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@FEW
@given(seeds, st.integers(1, 5), st.sampled_from([0.5, 2.0]))
def test_dynamic_weights_over_four_epochs(seed: int, tasks: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    theirs, ours = scalarization.DWA(temperature), methods.build("dwa", temperature=temperature)
    state = ours.init(tasks)
    for epoch in range(4):
        for number in range(3):
            losses = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1
            found, state, _ = ours.weigh(Losses(losses), state, Step(3 * epoch + number, epoch))
            torch.testing.assert_close(found, scalarized(theirs, losses), rtol=1e-9, atol=1e-12)
        theirs.step()


@FEW
@given(seeds, st.integers(1, 5), st.sampled_from([0.0, 1e-3, 1e-1]))
def test_famo_over_five_steps(seed: int, tasks: int, gamma: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    theirs = scalarization.FAMO(tasks, lr=0.025, weight_decay=gamma).double()
    ours = methods.build("famo", lr_w=0.025, gamma=gamma)
    state = ours.init(tasks)
    for number in range(5):
        before = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1
        after = before * (0.8 + 0.3 * torch.rand(tasks, generator=generator, dtype=torch.float64))
        found, state, _ = ours.weigh(Losses(before), state, Step(number))
        torch.testing.assert_close(found, scalarized(theirs, before), rtol=1e-6, atol=1e-8)
        theirs.update(after)
        state = ours.observe(Losses(before), Losses(after), state, Step(number))
        torch.testing.assert_close(state.value, theirs._w.detach(), rtol=1e-6, atol=1e-8)


@FEW
@given(seeds, st.integers(1, 8))
def test_sums_means_constants_and_random_weights(seed: int, tasks: int) -> None:
    rows, given_weights = jacobian(tasks, seed), tuple(float(k + 1) for k in range(tasks))
    close = torch.testing.assert_close
    close(methods.combine("sum", rows), aggregation.Sum()(rows))
    close(methods.combine("linear", rows) / tasks, aggregation.Mean()(rows))
    constant = torch.tensor(given_weights, dtype=torch.float64)
    scaled = constant * tasks / constant.sum()
    close(methods.combine("linear", rows, weights=given_weights), aggregation.Constant(scaled)(rows))
    drawn = torch.randn(tasks, generator=Step(seed=seed).generator("rlw"), dtype=torch.float64)
    with patch("torch.randn", lambda *_, **__: drawn):
        theirs = aggregation.Random()(rows)
    close(methods.combine("rlw@native", rows, seed=seed), theirs)


@FEW
@given(seeds, st.floats(0, 0.95))
def test_smoothed_weights(seed: int, ema: float) -> None:
    theirs = aggregation.CRMOGMWeighting(aggregation.AlignedMTLWeighting(), alpha=ema)
    ours = methods.build("stabilised", use="aligned_mtl@torchjd", ema=ema)
    state = ours.init(3)
    for step in range(4):
        rows = jacobian(3, seed + step)
        grads = DenseGradients(rows)
        state, _ = ours.step(grads, state, Step(step))
        torch.testing.assert_close(grads.weights, theirs(rows @ rows.T), rtol=1e-8, atol=1e-10)


@FEW
@given(seeds, st.integers(1, 8), st.sampled_from(["IMTLG", "MGDA", "AlignedMTL", "AlignedMTLWeighting", "Mean"]))
def test_their_components_run_on_our_engine(seed: int, tasks: int, name: str) -> None:
    rows = jacobian(tasks, seed)
    kind = getattr(aggregation, name if name.endswith("Weighting") else f"{name}Weighting")
    torch.testing.assert_close(methods.weights(f"torchjd.{name}", rows), kind()(rows @ rows.T))
    losses = torch.rand(tasks, dtype=torch.float64) + 0.1
    found = methods.weights("torchjd.STCH", rows, losses, params={"mu": 0.3})
    torch.testing.assert_close(found, scalarized(scalarization.STCH(mu=0.3), losses))


@pytest.mark.parametrize("name", ["GradVac", "PCD"])
def test_what_their_components_remember_is_a_value(name: str) -> None:
    """Three steps, each from a state that went through a checkpoint, are those of one living object of theirs."""
    theirs = getattr(aggregation, f"{name}Weighting")()
    ours = methods.build(f"torchjd.{name}")
    state = ours.init(4)
    for step in range(3):
        rows = jacobian(4, step) - 0.2 * jacobian(1, step + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(7, "torchjd", step))
            expected = theirs(rows @ rows.T)
        grads = DenseGradients(rows)
        state, _ = ours.step(grads, state, Step(step, seed=7))
        torch.testing.assert_close(grads.weights, expected)
        buffer = io.BytesIO()
        torch.save(ours.pack(state), buffer)
        buffer.seek(0)
        state = ours.unpack(torch.load(buffer, weights_only=True), 4)
    for check in testing.method_checks(f"torchjd.{name}"):
        check()


def test_their_random_components_draw_from_our_address() -> None:
    rows = jacobian(5, 0)[:, :4]
    drawn = [methods.weights("torchjd.PCGrad", rows, seed=seed) for seed in (1, 1, 2, 3)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) or not torch.equal(drawn[0], drawn[3])


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("torchjd.UPGrda", UnknownName, "did you mean `UPGrad`"),
        ("torchjd.DWA", OutOfDomain, "keeps state"),
        ("torchjd.UW", OutOfDomain, "shape"),
        ("torchjd.ExcessMTL", UnknownName, "known"),
        ("torchJD.UPGrad", UnknownName, "no method is called"),
    ],
)
def test_components_that_do_not_fit_are_refused(name: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        methods.build(name)


def test_our_methods_aggregate_their_jacobians() -> None:
    from torchjd.autojac import backward, jac_to_grad

    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    backward([parameter[0], parameter[1] - parameter[0]])
    aggregator = MethodAggregator("pcgrad")
    jac_to_grad([parameter], aggregator)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == pytest.approx([0.5, 1.5])
    assert aggregator.weights is not None
    assert aggregator.weights.tolist() == pytest.approx([2.0, 1.5])


@FEW
@given(seeds, st.integers(1, 7), st.sampled_from([0.0, 0.02, 0.3, 0.9]))
def test_pcd_over_three_steps(seed: int, tasks: int, tau: float) -> None:
    theirs, ours = aggregation.PCDWeighting(tau=tau, beta=0.9), methods.build("pcd", tau=tau, beta=0.9)
    state = ours.init(tasks)
    for step in range(3):
        rows = jacobian(tasks, seed + step, parameters=6) * 10.0 ** (step - 1)
        gram = rows @ rows.T
        found, state, status = ours.weigh(gram, Losses(torch.ones(tasks)), state, Step(step))
        assert status in ("ok", "infeasible")
        torch.testing.assert_close(found, theirs(gram), rtol=1e-6, atol=1e-8)


def test_every_method_of_theirs_is_compared_here_or_left_out_for_a_reason() -> None:
    """What the library has, against the names this file mentions."""
    left_out = {
        "Aggregator": "a base class", "GramianWeightedAggregator": "a base class", "Scalarizer": "a base class",
        "WeightedAggregator": "a base class", "Weighting": "a base class",
        "Krum": "against faulty workers, no balancing", "TrimmedMean": "against faulty workers, no balancing",
        "COSMOS": "conditions the model on a preference", "PBI": "needs an ideal point for Pareto fronts",
    }  # fmt: skip
    source = Path(__file__).read_text(encoding="utf-8").partition("def test_every_method_of_theirs")[0]
    names = {*aggregation.__all__, *scalarization.__all__}
    plain = {name.removesuffix("Weighting") or name for name in names}
    assert "UPGrad" in plain and len(plain) > 25
    missing = {n for n in plain if f".{n}(" not in source and f".{n}Weighting(" not in source}
    assert missing == set(left_out)
