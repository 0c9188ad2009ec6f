"""Methods at the representation against the papers' vector forms, on a batch of several samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtlfleet import methods
from mtlfleet.engine import GradientEngine
from mtlfleet.engine.gradients import Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.errors import EngineRefused

TASKS, BATCH, WIDTH, PARAMETERS = 3, 4, 5, 7


def drawn(seed: int = 0, tasks: int = TASKS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(z [B, D], gradients at z [K, B, D], Jacobian of z [B * D, P])."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(BATCH, WIDTH, generator=g, dtype=torch.float64)
    gradients = torch.randn(tasks, BATCH, WIDTH, generator=g, dtype=torch.float64)
    return z, gradients, torch.randn(BATCH * WIDTH, PARAMETERS, generator=g, dtype=torch.float64)


def stepped(name: str, given: tuple[torch.Tensor, ...], losses: torch.Tensor | None = None, seed: int = 0, **params):
    z, gradients, trunk = given
    grads = DenseGradients(gradients.flatten(1) @ trunk, losses, representation=(z, gradients, trunk))
    method = methods.build(name, **params)
    state, status = method.step(grads, method.init(len(gradients)), Step(seed=seed))
    return grads, state, status


@pytest.mark.parametrize(
    ("name", "at_parameters"), [("mgda_ub", "mgda"), ("aligned_mtl_ub", "aligned_mtl"), ("imtl_ub", "imtl_g")]
)
@pytest.mark.parametrize("convention", ["concat", "batch_sum"])
def test_weights_of_z_on_the_parameters_gradients(name: str, at_parameters: str, convention: str) -> None:
    z, gradients, trunk = drawn()
    rows = gradients.flatten(1) if convention == "concat" else gradients.sum(1)
    expected = methods.weights(at_parameters, rows)
    grads, _, status = stepped(name, (z, gradients, trunk), convention=convention)
    assert status == "ok"
    torch.testing.assert_close(grads.weights, expected)
    torch.testing.assert_close(grads.direction(), expected @ (gradients.flatten(1) @ trunk))


def test_samples_side_by_side_or_summed_by_hand() -> None:
    """Gradients that cancel over the batch: summed, both tasks have (1, 0) and (0, 1); side by side, the second task's
    squares are 1 + 2 * 4 = 9, so its weight is 1/10."""
    gradients = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[2.0, 1.0], [-2.0, 0.0]]], dtype=torch.float64)
    gradients[0, 0, 0], gradients[0, 1, 0] = 0.5, 0.5  # the same on both samples: no product with the second task
    given = torch.ones(2, 2, dtype=torch.float64), gradients, torch.eye(4, dtype=torch.float64)
    assert stepped("mgda_ub", given)[0].weights.tolist() == pytest.approx([9 / 9.5, 0.5 / 9.5])
    assert stepped("mgda_ub@libmtl", given)[0].weights.tolist() == pytest.approx([0.5, 0.5])
    aligned, theirs = stepped("aligned_mtl_ub", given)[0].weights, stepped("aligned_mtl_ub@libmtl", given)[0].weights
    assert aligned.tolist() == pytest.approx([1.0, (0.5 / 9) ** 0.5])  # both brought to the length of the shorter
    assert theirs.tolist() == pytest.approx([1.0, 1.0])


def test_mgda_ub_of_the_authors_divides_by_losses_and_norms() -> None:
    given, losses = drawn(), torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
    scale = losses * given[1].flatten(1).norm(dim=1)
    expected = methods.weights("mgda", given[1].flatten(1) / scale[:, None])
    found = stepped("mgda_ub@official", given, losses)[0].weights
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, stepped("mgda_ub", given, losses)[0].weights)


def vectors(gradients: np.ndarray, ridge: float, transposed: bool) -> np.ndarray:
    """The paper's D and U as matrices of differences to the first gradient."""
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    d, u = gradients[0] - gradients[1:], units[0] - units[1:]
    system = d @ u.T if transposed else u @ d.T
    rest = np.linalg.inv(system + ridge * np.eye(len(system))) @ (u @ gradients[0])
    return np.concatenate([[1 - rest.sum()], rest])


@pytest.mark.parametrize("name", ["imtl@kurin", "imtl_ub@kurin"])
def test_imtl_of_kurin_et_al(name: str) -> None:
    given = drawn(1)
    flat = given[1].flatten(1).numpy()
    grads, _, _ = stepped(name, given)
    assert grads.weights.numpy() == pytest.approx(vectors(flat, 1e-6, transposed=True), rel=1e-9)
    exact = stepped("imtl_ub", given)[0].weights.numpy()
    assert exact == pytest.approx(vectors(flat, 0.0, transposed=False), rel=1e-9)
    units = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    spread = {key: np.ptp((w @ flat) @ units.T) for key, w in (("ours", exact), ("theirs", grads.weights.numpy()))}
    assert spread["ours"] < 1e-9
    assert spread["theirs"] > 0.01, "for three tasks their system is the transpose of the paper's"
    pair = drawn(2, tasks=2)
    two = stepped(name, pair)[0].weights
    torch.testing.assert_close(two, stepped("imtl_ub", pair)[0].weights, rtol=1e-5, atol=1e-6)
    silent = (pair[0], pair[1] * torch.tensor([1.0, 0.0]).view(2, 1, 1), pair[2])
    assert not stepped(name, silent)[0].weights.any(), "a zero gradient is NaN there, and NaN is no update"


@pytest.mark.parametrize("name", ["imtl_ub", "imtl@kurin"])
def test_scaled_losses_reach_heads_and_gradients(name: str) -> None:
    """By hand: after a step at losses (2, 0.25, 1) the scales have moved by -lr, +lr and not at all."""
    method, given = methods.build(name, lr_s=0.1), drawn(3)
    losses = torch.tensor([2.0, 0.25, 1.0], dtype=torch.float64)
    _, state, _ = stepped(name, given, losses, lr_s=0.1)
    assert state.value.tolist() == pytest.approx([-0.1, 0.1, 0.0])
    z, gradients, trunk = given
    grads = DenseGradients(gradients.flatten(1) @ trunk, losses, representation=given)
    method.step(grads, state, Step(1))
    scale = state.value.exp()
    assert grads.own is not None
    torch.testing.assert_close(grads.own, scale)
    inner = stepped(name, (z, gradients * scale.view(-1, 1, 1), trunk), losses)[0].weights
    torch.testing.assert_close(grads.weights, inner * scale)
    plain, unmoved, _ = stepped("imtl_ub", given, -losses, scale_losses=False)
    assert not unmoved.value.any()
    torch.testing.assert_close(plain.own, torch.ones(3, dtype=torch.float64))


def test_the_engine_gives_heads_their_factors() -> None:
    torch.manual_seed(0)
    trunk, heads = torch.nn.Linear(3, 4), torch.nn.ModuleDict({t: torch.nn.Linear(4, 1) for t in "ab"})
    model = torch.nn.ModuleList([trunk, heads])
    engine = GradientEngine(model, methods.build("imtl_ub", lr_s=0.5))
    x = torch.randn(6, 3)
    for scale in ((1.0, 1.0), None):
        z = trunk(x)
        losses = {t: (heads[t](z) ** 2).mean() + k for k, t in enumerate("ab")}
        own = [torch.autograd.grad(losses[t], heads[t].weight, retain_graph=True)[0] for t in "ab"]
        told = engine.state.value.exp().tolist() if scale is None else scale
        engine.step(losses, features=z)
        for k, t in enumerate("ab"):
            torch.testing.assert_close(heads[t].weight.grad, own[k] * told[k])
    assert told[0] != told[1] or told[0] != 1.0


def dropped(z: torch.Tensor, gradients: torch.Tensor, leak: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of the paper, sample by sample."""
    s = torch.stack([sum(z[b].sign() * g[b] for b in range(len(z))) for g in gradients])
    purity = 0.5 * (1 + s.sum(0) / s.abs().sum(0))
    masks = (purity > u) * (s > 0) + (purity < u) * (s < 0).to(torch.float64)
    kept = leak[:, None] + (1 - leak[:, None]) * masks
    return sum(kept[k] * gradients[k] for k in range(len(gradients)))


def test_sign_dropout_of_the_layer() -> None:
    from mtlfleet.methods.draws import uniform
    from mtlfleet.plan.streams import stream

    z, gradients, trunk = drawn(4)
    leak = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    for seed in range(4):
        found = stepped("graddrop_z", (z, gradients, trunk), seed=seed, leak=(0.0, 0.3, 1.0))[0].direction()
        u = uniform(stream(seed, "graddrop_z", 0), torch.arange(WIDTH))
        torch.testing.assert_close(found, dropped(z, gradients, leak, u).flatten() @ trunk)
    total = stepped("graddrop_z", (z, gradients, trunk), leak=1.0)[0].direction()
    torch.testing.assert_close(total, gradients.sum(0).flatten() @ trunk)


def test_the_sign_of_z_decides_who_agrees() -> None:
    """Two tasks, one coordinate, samples z = +1 and -1 with gradients +1 and -1: with the sign they agree, and all
    passes at any draw; without it they would cancel. The second task against the first passes half of the time."""
    z = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    one = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    for seed in range(5):
        found = stepped("graddrop_z", (z, torch.stack([one, one]), eye), seed=seed)[0].direction()
        assert found.tolist() == [2.0, -2.0]
    picked = [stepped("graddrop_z", (z, torch.stack([3 * one, -one]), eye), seed=s)[0].direction() for s in range(400)]
    assert {tuple(d.tolist()) for d in picked} == {(3.0, -3.0), (-1.0, 1.0)}
    assert np.mean([float(d[0]) == 3.0 for d in picked]) == pytest.approx(0.75, abs=0.07)  # purity 3/4, three sigma


def test_losses_only_see_the_losses() -> None:
    """The loss half alone: at the optimum e^s l = 1 the scales stay."""
    method = methods.build("imtl_ub", lr_s=0.1)
    given = drawn(5)
    _, state, _ = stepped("imtl_ub", given, torch.ones(3, dtype=torch.float64), lr_s=0.1)
    assert not state.value.any()
    with pytest.raises(Exception, match="negative"):
        method.weigh(torch.eye(3, dtype=torch.float64), Losses(-torch.ones(3, dtype=torch.float64)), state, Step())


@pytest.mark.parametrize("name", ["db_mtl", "db_mtl@libmtl", "imtl"])
@pytest.mark.parametrize("way", ["sequential", "factored", "batched"])
def test_heads_follow_their_own_logarithm_or_scale(name: str, way: str) -> None:
    """The trunk's gradient is what it was; a head's is that of ln of its loss, or of its scaled loss."""
    torch.manual_seed(3)
    trunk, heads = torch.nn.Linear(3, 4), torch.nn.ModuleDict({t: torch.nn.Linear(4, 1) for t in "ab"})
    x = torch.randn(16, 3)

    def losses() -> dict[str, torch.Tensor]:
        z = trunk(x)
        return {"a": 20 * heads["a"](z).square().mean(), "b": (heads["b"](z) - 3).square().mean()}

    if way == "factored" and name == "db_mtl@libmtl":
        way = "sequential"  # rows are needed
    engine = GradientEngine(torch.nn.ModuleList([trunk, heads]), name, backward=way)
    if name == "imtl":
        engine._agreed.tasks = ("a", "b")
        start = engine.method.init(2)
        engine.state = replace(start, value=torch.tensor([0.5, -1.0], dtype=torch.float64))
    engine.step(losses())
    for task, loss in losses().items():
        loss = loss * float(torch.exp(torch.tensor(0.5 if task == "a" else -1.0))) if name == "imtl" else loss.log()
        expected = torch.autograd.grad(loss, heads[task].weight)[0]
        torch.testing.assert_close(heads[task].weight.grad, expected, rtol=1e-5, atol=1e-7)


def test_factors_for_heads_are_refused_where_one_pass_made_them() -> None:
    trunk, heads = torch.nn.Linear(3, 4), torch.nn.ModuleDict({t: torch.nn.Linear(4, 1) for t in "ab"})
    engine = GradientEngine(torch.nn.ModuleList([trunk, heads]), "db_mtl", approximate="sketch")
    z = trunk(torch.randn(16, 3))
    with pytest.raises(EngineRefused, match="one pass"):
        engine.step({t: heads[t](z).square().mean() for t in "ab"})
