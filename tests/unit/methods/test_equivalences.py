"""What the methods have to do with each other, and with their own definitions, on random gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtlfleet.methods import combine, weights

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
@given(seeds, st.integers(2, 10))
def test_cagrad_with_a_wide_ball_is_mgda(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    wide, shortest = combine("cagrad", rows, c=1e6), combine("mgda", rows)
    torch.testing.assert_close(wide / wide.norm(), shortest / shortest.norm(), rtol=0, atol=1e-4)


@MANY
@given(seeds, st.integers(2, 8))
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
@given(seeds, st.integers(2, 10))
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
@given(seeds, st.integers(1, 12))
def test_aligned_gradients_are_orthogonal_and_equally_long(seed: int, tasks: int) -> None:
    rows = gradients(tasks, seed)
    aligned = torch.stack([combine("aligned_mtl", rows, preference=tuple(unit)) for unit in torch.eye(tasks).tolist()])
    smallest = torch.linalg.svdvals(rows)[-1] ** 2
    close(aligned @ aligned.T, smallest * torch.eye(tasks, dtype=torch.float64))
    close(combine("aligned_mtl", rows), aligned.sum(0))


@MANY
@given(seeds, st.integers(3, 8))
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
