"""What the methods have to do with each other, and with their own definitions, on random gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtlfleet.engine.gradients import Gram, Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods import build, combine, weights
from mtlfleet.methods.draws import uniform
from mtlfleet.methods.tchebycheff import Nadir

MANY = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def gradients(tasks: int, seed: int, *, ratio: float = 0.0) -> Tensor:
    """[K, 3K + 5] independent rows; norms spread over ``ratio`` powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, 3 * tasks + 5, generator=generator, dtype=torch.float64)
    spread = torch.rand(tasks, 1, generator=generator, dtype=torch.float64)
    return rows * 10 ** (ratio * spread)


def orthogonal(tasks: int, seed: int) -> Tensor:
    rows = gradients(tasks, seed, ratio=2)
    return torch.linalg.qr(rows.T).Q.T * rows.norm(dim=1, keepdim=True)


def close(found: Tensor, expected: Tensor, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def parallel(found: Tensor, expected: Tensor) -> None:
    close(found / found.norm(), expected / expected.norm())


@MANY
@given(seeds, st.floats(0, 4))
def test_two_tasks_upgrad_is_half_of_pcgrad(seed: int, ratio: float) -> None:
    rows = gradients(2, seed, ratio=ratio)
    close(weights("upgrad", rows), weights("pcgrad", rows) / 2)


@MANY
@given(seeds, st.floats(0, 4))
def test_two_tasks_nash_and_impartial_weights_go_by_inverse_norms(seed: int, ratio: float) -> None:
    rows = gradients(2, seed, ratio=ratio)
    inverse = 1 / rows.norm(dim=1)
    parallel(weights("nash_mtl", rows), inverse)
    close(weights("imtl_g", rows), inverse / inverse.sum())


@MANY
@given(seeds, st.integers(1, 40))
def test_orthogonal_gradients(seed: int, tasks: int) -> None:
    rows = orthogonal(tasks, seed)
    norms = rows.norm(dim=1)
    close(combine("pcgrad", rows), combine("sum", rows))
    close(combine("upgrad", rows), rows.mean(0))
    close(weights("nash_mtl", rows, max_norm=None), 1 / norms)
    close(weights("mgda", rows), norms**-2 / (norms**-2).sum())


@MANY
@given(seeds, st.integers(1, 40), st.floats(0, 4))
def test_nash_weights_solve_the_bargain(seed: int, tasks: int, ratio: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio)
    free = weights("nash_mtl", rows, max_norm=None)
    close((rows @ rows.T @ free) * free, torch.ones(tasks, dtype=torch.float64))
    assert float((free @ rows).norm()) == pytest.approx(tasks**0.5)
    assert float(combine("nash_mtl", rows).norm()) == pytest.approx(1)
    stretch = torch.logspace(-1, 1, tasks, dtype=torch.float64)[:, None]
    close(combine("nash_mtl", rows * stretch, max_norm=None), combine("nash_mtl", rows, max_norm=None), 1e-7)


def test_two_tasks_nash_closed_form() -> None:
    rows = torch.tensor([[3.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    norms = rows.norm(dim=1)
    cosine = rows[0] @ rows[1] / norms.prod()
    close(weights("nash_mtl", rows, max_norm=None), 1 / (norms * (1 + cosine).sqrt()))


@MANY
@given(seeds, st.integers(1, 40), st.floats(0, 4), st.sampled_from([0.1, 0.5, 0.9]))
def test_cagrad_stays_in_its_ball_and_serves_the_worst_off(seed: int, tasks: int, ratio: float, c: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio)
    mean, update = rows.mean(0), combine("cagrad", rows, c=c)
    assert float((update - mean).norm()) == pytest.approx(c * float(mean.norm()), rel=1e-8)
    assert float((rows @ update).min()) >= float((rows @ mean).min())
    close(combine("cagrad", rows, c=0.0), mean)
    close(combine("cagrad", rows, c=c, rescale=1), update / (1 + c * c))
    close(combine("cagrad", rows, c=c, rescale=2), update / (1 + c))


@MANY
@given(seeds, st.integers(2, 40))
def test_cagrad_with_a_wide_ball_is_mgda(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    wide, shortest = combine("cagrad", rows, c=1e6), combine("mgda", rows)
    torch.testing.assert_close(wide / wide.norm(), shortest / shortest.norm(), rtol=0, atol=1e-4)


@MANY
@given(seeds, st.integers(2, 40))
def test_cagrad_of_the_nash_code_is_cut_at_one(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    plain, theirs = combine("cagrad", rows, c=0.4, rescale=1), combine("cagrad@nash", rows)
    close(theirs, plain * min(tasks, 1 / float(plain.norm())))


@MANY
@given(seeds, st.integers(1, 40), st.floats(0, 4))
def test_mgda_products_are_the_squared_norm_or_more(seed: int, tasks: int, ratio: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio)
    chosen = weights("mgda", rows)
    products, square = rows @ (chosen @ rows), (chosen @ rows).square().sum()
    slack = 1e-9 * rows.norm(dim=1) * (chosen[:, None] * rows).norm(dim=1).max()
    assert (products >= square - slack).all()
    assert ((products - square).abs() <= slack)[chosen > 0].all()


@MANY
@given(seeds, st.integers(2, 40))
def test_mgda_on_scaled_gradients(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed, ratio=1)
    losses = torch.rand(tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    norms = rows.norm(dim=1)
    for norm, scale in (("l2", norms), ("loss", losses), ("loss+", losses * norms)):
        posed = weights("mgda", rows / scale[:, None])
        close(weights("mgda", rows, losses, norm=norm), posed)
        close(weights("mgda", rows, losses, norm=norm, combine="normalized"), posed / scale)
    stretched = combine("mgda", rows * torch.logspace(-2, 2, tasks)[:, None], norm="l2", combine="normalized")
    close(stretched, combine("mgda", rows, norm="l2", combine="normalized"), 1e-7)


@MANY
@given(seeds, st.integers(1, 40), st.floats(0, 4))
def test_impartial_projections_are_equal(seed: int, tasks: int, ratio: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio)
    chosen = weights("imtl_g", rows)
    projections = rows @ (chosen @ rows) / rows.norm(dim=1)
    close(projections, projections.mean().expand(tasks))
    assert float(chosen.sum()) == pytest.approx(1)


@MANY
@given(seeds, st.integers(1, 40), st.floats(0, 4))
def test_upgrad_hurts_no_task(seed: int, tasks: int, ratio: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio) - 0.1
    update = combine("upgrad", rows)
    assert (rows @ update >= -1e-9 * rows.norm(dim=1) * rows.norm(dim=1).max()).all()
    agreeing = rows.abs()
    close(weights("upgrad", agreeing), torch.full((tasks,), 1 / tasks, dtype=torch.float64))
    close(weights("upgrad", agreeing, p="sum"), torch.ones(tasks, dtype=torch.float64))


@MANY
@given(seeds, st.integers(1, 40))
def test_aligned_gradients_are_orthogonal_and_equally_long(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    aligned = torch.stack([combine("aligned_mtl", rows, preference=tuple(unit)) for unit in torch.eye(tasks).tolist()])
    smallest = torch.linalg.svdvals(rows)[-1] ** 2
    close(aligned @ aligned.T, smallest * torch.eye(tasks, dtype=torch.float64))
    close(combine("aligned_mtl", rows), aligned.sum(0))


@MANY
@given(seeds, st.integers(3, 40))
def test_pcgrad_with_fixed_order_is_the_tensorflow_code(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed) - 0.3 * gradients(1, seed + 1)[:, :1]
    altered = rows.clone()
    for i in range(tasks):
        for j in range(tasks):
            altered[i] -= min(0.0, float(altered[i] @ rows[j]) / float(rows[j] @ rows[j])) * rows[j]
    close(combine("pcgrad@tf", rows), altered.sum(0))
    close(combine("pcgrad@tf", rows, reduction="mean"), altered.mean(0))


def test_pcgrad_draws_its_order_from_the_seed() -> None:
    rows = gradients(6, 1)[:, :4]
    found = {tuple(weights("pcgrad", rows, seed=seed).tolist()) for seed in range(8)}
    assert len(found) > 4


@MANY
@given(seeds, st.integers(1, 40), st.floats(-10, 10))
def test_units_of_a_loss_do_not_matter_to_si(seed: int, tasks: int, power: float) -> None:
    rows = gradients(tasks, seed)
    losses = torch.rand(tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    size = 10 ** max(power, -6)
    close(combine("si", rows * size, losses * size), combine("si", rows, losses))


@MANY
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_linear_weights_are_scaled_to_the_number_of_tasks(given_weights: list[float]) -> None:
    rows = torch.eye(len(given_weights), dtype=torch.float64)
    found = weights("linear", rows, weights=tuple(given_weights))
    expected = torch.tensor(given_weights, dtype=torch.float64)
    close(found, expected * len(given_weights) / expected.sum())
    close(weights("linear", rows), weights("sum", rows))


@MANY
@given(seeds, st.floats(0, 4))
def test_two_tasks_config_goes_by_inverse_norms_and_gradvac_starts_as_pcgrad(seed: int, ratio: float) -> None:
    rows = gradients(2, seed, ratio=ratio)
    parallel(weights("config", rows), 1 / rows.norm(dim=1))
    close(weights("gradvac", rows), weights("pcgrad", rows))


@MANY
@given(seeds, st.integers(2, 40), st.floats(0, 4))
def test_config_is_impartial_and_never_uphill(seed: int, tasks: int, ratio: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio)
    update, impartial = combine("config", rows), combine("imtl_g", rows)
    parallel(update, impartial * torch.sign(impartial @ update))
    projections = rows @ update / rows.norm(dim=1)
    assert (projections > 0).all()
    close(projections, projections.mean().expand(tasks), 1e-7)
    stretch = torch.logspace(-2, 2, tasks, dtype=torch.float64)[:, None]
    parallel(combine("config", rows * stretch), update)


@MANY
@given(seeds, st.integers(1, 40), st.floats(0, 4))
def test_fair_shares_at_one_are_the_bargain(seed: int, tasks: int, ratio: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio)
    close(weights("fairgrad", rows, alpha=1.0), weights("nash_mtl", rows, max_norm=None), 1e-7)
    close(weights("fairgrad", rows, alpha=0.0), weights("sum", rows))


@MANY
@given(seeds, st.integers(1, 40), st.floats(0, 4), st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_fair_shares(seed: int, tasks: int, ratio: float, alpha: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio)
    w = weights("fairgrad", rows, alpha=alpha)
    terms = (rows @ rows.T).abs() @ w  # what the products are sums of: residuals are held to a part of it
    assert (((rows @ rows.T) @ w - w ** (-1 / alpha)).abs() <= 1e-8 * (terms + w ** (-1 / alpha))).all()
    scaled = combine("fairgrad", rows * 100, alpha=alpha)
    close(scaled, combine("fairgrad", rows, alpha=alpha) * 100 ** ((1 - alpha) / (1 + alpha)), 1e-6)
    square = orthogonal(tasks, seed)
    close(weights("fairgrad", square, alpha=alpha), square.norm(dim=1) ** (-2 * alpha / (1 + alpha)), 1e-7)


@MANY
@given(seeds, st.integers(1, 40), st.floats(0, 4))
def test_the_projected_mean_hurts_nobody(seed: int, tasks: int, ratio: float) -> None:
    rows = gradients(tasks, seed, ratio=ratio) - 0.1
    found = weights("dualproj", rows)
    update = found @ rows
    assert (found >= 1 / tasks - 1e-9).all()
    assert (rows @ update >= -1e-9 * rows.norm(dim=1) * rows.norm(dim=1).max()).all()
    # optimality: what was added on top of the mean has no product with the update
    slack = (found - 1 / tasks) * rows.norm(dim=1) * (rows @ update) / rows.norm(dim=1)
    assert (slack.abs() <= 1e-8 * rows.norm(dim=1).max() ** 2).all()
    close(combine("dualproj", orthogonal(tasks, seed)), orthogonal(tasks, seed).mean(0))
    if tasks == 2 and float(rows.mean(0) @ rows[0]) < 0:
        mean = rows.mean(0)
        close(found, torch.stack([0.5 - mean @ rows[0] / rows[0].square().sum(), torch.tensor(0.5)]).to(torch.float64))


@MANY
@given(seeds, st.integers(1, 40))
def test_losses_only_methods_share_directions(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    losses = torch.rand(tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    parallel(weights("gls", rows, losses), weights("si", rows, losses))
    scales = torch.log(losses)  # where uw and imtl_l settle
    parallel(torch.exp(-scales) / 2, weights("si", rows, losses))
    z = losses.flip(0) + 0.5
    state = Nadir(z, 1)
    found = build("stch_mtl", mu=1.0, warmup_epochs=0).weigh(Losses(losses), state, Step(1, 1)).weights
    parallel(found, 1 / z)
    worst = build("stch_mtl", mu=1e-3, warmup_epochs=0).weigh(Losses(losses), state, Step(1, 1)).weights
    assert int(worst.argmax()) == int((losses / z).argmax())


@MANY
@given(seeds, st.integers(1, 40))
def test_dual_balancing_makes_equal_lengths(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed, ratio=2)
    losses = torch.rand(tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    lengths = (weights("db_mtl", rows, losses)[:, None] * rows).norm(dim=1)
    close(lengths, lengths.max().expand(tasks))
    units = torch.logspace(-2, 2, tasks, dtype=torch.float64)
    parallel(combine("db_mtl", rows * units[:, None], losses * units), combine("db_mtl", rows, losses))


@MANY
@given(seeds, st.integers(1, 40))
def test_adatask_first_step_adds_signs(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    close(combine("adatask", rows, eps=1e-20), torch.sign(rows).sum(0))
    close(combine("adatask", rows[:1].repeat(tasks, 1)), tasks * combine("adatask", rows[:1]))


@MANY
@given(seeds, st.integers(1, 6), st.sampled_from(["adam", "adagrad", "rmsprop"]))
def test_adatask_of_one_task_is_torchs_optimizer(seed: int, steps: int, rule: str) -> None:
    theirs = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))
    kind = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}[rule]
    extra = {"rmsprop": {"alpha": 0.999, "eps": 1e-8}, "adagrad": {"eps": 1e-8}, "adam": {}}[rule]
    optimizer = kind([theirs], lr=0.1, **extra)
    ours, at = build("adatask", rule=rule), torch.zeros(8, dtype=torch.float64)
    state = ours.init(1)
    for step in range(steps):
        row = gradients(1, seed + step)[:, :8]
        theirs.grad = row[0].clone()
        optimizer.step()
        direction, state = ours.update(row, state, Step(step))
        at = at - 0.1 * direction
    close(at, theirs.detach(), 1e-7)


def test_dominance_shares() -> None:
    ours = build("adatask", dominance_beta=0.9)
    rows = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    _, state = ours.update(rows, ours.init(2), Step())
    # at the first step every task moves each coordinate it has a gradient for by one
    assert state.shares().T.flatten().tolist() == pytest.approx([0.5, 0.5, 1.0, 0.0, 0.5, 0.5])
    assert ours.report(ours.step(DenseGradients(rows), ours.init(2), Step())[0]) == {
        "au_share": pytest.approx([0.75, 0.25]),  # of the two parameters that move
        "au_dominant": pytest.approx([0.5, 0.0]),
    }
    assert build("adatask").report(ours.init(2)) == {}


@MANY
@given(seeds, st.integers(1, 40), st.integers(1, 4))
def test_a_sign_dropped_gradient_does_not_depend_on_how_it_is_cut(seed: int, tasks: int, world: int) -> None:
    rows, method = gradients(tasks, seed), build("graddrop")
    whole = method.merge(rows, torch.arange(rows.shape[1]), None, Step(seed=seed))[0]
    size = -(-rows.shape[1] // world)
    pieces = [
        method.merge(rows[:, a : a + size], torch.arange(a, min(a + size, rows.shape[1])), None, Step(seed=seed))[0]
        for a in range(0, rows.shape[1], size)
    ]
    close(torch.cat(pieces), whole, 1e-14)
    lower = torch.where(rows < 0, rows, 0.0).sum(0)
    upper = torch.where(rows > 0, rows, 0.0).sum(0)
    assert (((whole - lower).abs() < 1e-9) | ((whole - upper).abs() < 1e-9)).all()


def test_draws_are_uniform_and_independent_of_neighbours() -> None:
    drawn = uniform(12345, torch.arange(200_000))
    counts = torch.histc(drawn, 20, 0, 1)
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 60  # chi square, 19 degrees of freedom: beyond 1e-5
    assert abs(float(torch.corrcoef(torch.stack([drawn[1:], drawn[:-1]]))[0, 1])) < 0.01
    assert not torch.equal(uniform(12346, torch.arange(10)), drawn[:10])


def test_galw_groups_by_slope_and_with_every_task_alone_is_uw() -> None:
    growing = torch.tensor([1.0, 1.0, 2.0, 2.0, 8.0], dtype=torch.float64)
    galw, uw = build("galw", groups=2), build("uw")
    state = galw.init(5)
    for step in range(4):
        norms = 1.0 + step * (growing - 1.0) / 4
        state = galw.weigh(Gram(torch.diag(norms.square())), Losses(torch.ones(5)), state, Step(step, 0)).state
    alone = state.grouped(5)
    assert state.grouped(2).group.tolist() == [0, 0, 0, 0, 1]
    assert state.grouped(3).group.tolist() == [0, 0, 1, 1, 2]
    assert sorted(alone.group.tolist()) == [0, 1, 2, 3, 4]
    private = uw.init(5)
    for step in range(5):
        losses = Losses(growing + step)
        found, alone, _ = galw.weigh(Gram(torch.eye(5)), losses, alone, Step(4 + step, 1))
        expected, private, _ = uw.weigh(losses, private, Step(step))
        assert torch.equal(found, expected)


def test_classification_has_twice_the_weight_and_settles_at_twice_the_loss() -> None:
    uw = build("uw", kinds=("regression", "classification"), lr_s=0.02)
    state, losses = uw.init(2), Losses(torch.tensor([3.0, 3.0], dtype=torch.float64))
    assert uw.weigh(losses, state, Step()).weights.tolist() == [0.5, 1.0]
    for step in range(1500):
        state = uw.weigh(losses, state, Step(step)).state
    assert state.value.tolist() == pytest.approx([math.log(3), math.log(6)], abs=1e-3)
