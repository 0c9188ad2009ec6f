"""What each preset changes: the reference's convention, in numbers."""

from __future__ import annotations

import pytest
import torch

from mtlfleet import methods, registry
from mtlfleet.engine import GradientEngine, StepInfo
from mtlfleet.engine.gradients import Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods.base import OutOfDomain

JACOBIAN = torch.tensor([[4.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-1.0, -2.0, 2.0]], dtype=torch.float64)
LOSSES = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)


def update(name: str, **params) -> torch.Tensor:
    return methods.combine(name, JACOBIAN, LOSSES, **params)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_sums_and_norms_of_the_nash_family() -> None:
    bare = update("fairgrad", alpha=2.0)
    close(update("fairgrad@official"), bare * min(3.0, 1 / float(bare.norm())))
    assert float(update("fairgrad@official").norm()) == pytest.approx(1)
    assert methods.build("fairgrad@libmtl").alpha == 1
    assert methods.build("fairgrad@libmtl").heads == "weighted"
    inner = update("cagrad", c=0.4, rescale=1)
    close(update("cagrad@official_nyuv2"), inner)
    close(update("cagrad@nash"), inner * min(3.0, 1 / float(inner.norm())))
    assert float(update("nash_mtl@official").norm()) == pytest.approx(1)
    assert float(update("nash_mtl", max_norm=None).norm()) == pytest.approx(3**0.5)


def test_mgda_of_the_authors_divides_by_losses_and_norms() -> None:
    scale = LOSSES * JACOBIAN.norm(dim=1)
    posed = methods.weights("mgda", JACOBIAN / scale[:, None])
    close(methods.weights("mgda@official", JACOBIAN, LOSSES), posed)
    close(methods.weights("mgda@kurin", JACOBIAN, LOSSES), posed / scale)
    assert not torch.allclose(posed, methods.weights("mgda", JACOBIAN))


def test_pcgrad_of_the_authors_has_one_order() -> None:
    found = {tuple(methods.weights("pcgrad@tf", JACOBIAN, seed=seed).tolist()) for seed in range(9)}
    drawn = {tuple(methods.weights("pcgrad", JACOBIAN, seed=seed).tolist()) for seed in range(9)}
    assert len(found) == 1
    assert len(drawn) > 1


def test_pcgrad_of_the_authors_meets_itself() -> None:
    """Of four gradients in the plane, some turn against their old selves after two projections."""
    apart = 0
    for seed in range(100):
        rows = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        met, unmet = methods.weights("pcgrad@tf", rows), methods.weights("pcgrad", rows, order="fixed")
        apart += not torch.allclose(met, unmet)
    assert 5 <= apart <= 60


def trained(name: str) -> tuple[torch.Tensor, torch.Tensor, StepInfo]:
    """The gradient of the trunk and of the first head, from one step on two losses."""
    torch.manual_seed(2)
    trunk, heads = torch.nn.Linear(3, 4), torch.nn.ModuleDict({t: torch.nn.Linear(4, 1) for t in "ab"})
    engine = GradientEngine(torch.nn.ModuleList([trunk, heads]), name)
    z = trunk(torch.randn(8, 3))
    info = engine.step({"a": 20 * (heads["a"](z) ** 2).mean(), "b": (heads["b"](z) - 3).square().mean()})
    assert trunk.weight.grad is not None
    assert heads["a"].weight.grad is not None
    whole = torch.cat([trunk.weight.grad.flatten(), trunk.bias.grad])
    return whole, heads["a"].weight.grad, info


def test_heads_of_the_authors_bargain_see_their_weight() -> None:
    shared, head, _ = trained("nash_mtl")
    theirs, weighted, info = trained("nash_mtl@official")
    torch.testing.assert_close(shared, theirs)
    assert info.weights is not None
    torch.testing.assert_close(weighted, head * float(info.weights[0]))
    assert not torch.allclose(weighted, head)


def test_famo_of_the_authors_cuts_the_shared_gradient_only() -> None:
    bare, head, before = trained("famo")
    cut, same, after = trained("famo@official")
    assert before.update_norm == pytest.approx(float(bare.norm()), rel=1e-5)
    assert before.update_norm > 1
    assert after.update_norm == 1.0
    torch.testing.assert_close(cut, bare / bare.norm())
    torch.testing.assert_close(same, head)
    assert methods.build("famo@cityscapes").gamma == 0.01
    longer = methods.build("famo", max_norm=1e3)
    assert longer.shared_norm == 1e3


def test_random_weights_of_the_authors_are_k_times_shorter() -> None:
    close(update("rlw@native"), update("rlw") / 3)


def test_aligned_sums_or_averages() -> None:
    close(update("aligned_mtl@official"), update("aligned_mtl"))
    close(update("aligned_mtl@torchjd"), update("aligned_mtl") / 3)


def test_ridges_of_the_library() -> None:
    rows = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    for name in ("upgrad", "dualproj"):
        exact, theirs = methods.combine(name, rows), methods.combine(f"{name}@torchjd", rows)
        assert 0 < float((exact - theirs).norm()) < 1e-2 * float(exact.norm())
        tiny = methods.combine(f"{name}@torchjd", rows * 1e-4)
        close(tiny, rows.mean(0) * 1e-4)  # below their threshold every conflict is ignored
        close(methods.combine(name, rows * 1e-4), exact * 1e-4)


def test_static_weights_from_the_first_losses() -> None:
    """By hand: losses (1, 4, 0.5) give ratios (1, 1/4, 2), which sum to 3.25; later losses change nothing."""
    method = methods.build("linear@inverse")
    state = method.init(3)
    for step in range(3):
        weights, state, _ = method.weigh(Losses(LOSSES * 0.5**step), state, Step(step))
        close(weights, torch.tensor([1.0, 0.25, 2.0], dtype=torch.float64) * 3 / 3.25)
        state = method.unpack(method.pack(state), 3)
    with pytest.raises(OutOfDomain, match="not positive"):
        method.weigh(Losses(-LOSSES), method.init(3), Step())
    with pytest.raises(OutOfDomain, match="found `equal`"):
        methods.build("linear", weights="equal")


def test_uncertainties_start_and_move_as_in_the_codes() -> None:
    close(methods.weights("uw@nash", JACOBIAN, LOSSES), torch.full((3,), 0.5, dtype=torch.float64))
    close(methods.weights("uw@libmtl", JACOBIAN, LOSSES), 0.5 * torch.full((3,), 0.5, dtype=torch.float64).exp())
    moved = {}
    for name in ("uw@nash", "uw@libmtl"):
        uw = methods.build(name)
        state = uw.init(3)
        start = state.value.clone()
        for number in range(20):
            state = uw.weigh(Losses(LOSSES), state, Step(number)).state
        moved[name] = float((state.value - start).abs().max())
    assert moved["uw@libmtl"] < 0.01 * moved["uw@nash"]  # nearly frozen


def test_gradient_vaccine_of_the_codes_forgets_faster() -> None:
    found = {}
    for name in ("gradvac", "gradvac@libmtl"):
        method, grads = methods.build(name), DenseGradients(JACOBIAN)
        found[name], _ = method.step(grads, method.init(3), Step())
    close(found["gradvac@libmtl"].cosines * 0.02, found["gradvac"].cosines)


def epochs(name: str, **params) -> list[torch.Tensor]:
    """The weights of two steps in each of seven epochs, losses falling at different rates."""
    method = methods.build(name, **params)
    state, found = method.init(3), []
    for step in range(14):
        losses = Losses(LOSSES * torch.tensor([0.9, 0.8, 0.99], dtype=torch.float64) ** step)
        weights, state, _ = method.weigh(losses, state, Step(step, step // 2))
        found.append(weights)
    return found


def test_tchebycheff_of_the_multi_task_experiments() -> None:
    ours, theirs = epochs("stch_mtl"), epochs("stch@libmtl")
    assert all(map(torch.equal, ours, theirs))
    assert all(map(torch.equal, ours, epochs("stch_mtl@libmtl")))
    assert not torch.allclose(ours[-1], epochs("stch")[-1])
    close(ours[3], 1 / (LOSSES * torch.tensor([0.9, 0.8, 0.99], dtype=torch.float64) ** 3))  # a sum of logarithms
    z = LOSSES * (torch.tensor([0.9, 0.8, 0.99], dtype=torch.float64) ** torch.tensor([[8], [9]])).mean(0)
    close(ours[-1] / ours[-1].sum(), (1 / z) / (1 / z).sum())  # mu = 1: static weights from the fifth epoch's means


def test_smoothing_of_cr_mogm() -> None:
    method, plain = methods.build("stabilised@cr_mogm"), methods.build("mgda")
    state, last = method.init(3), None
    for step in range(4):
        rows = JACOBIAN + 0.3 * step
        grads, told = DenseGradients(rows), DenseGradients(rows)
        state, _ = method.step(grads, state, Step(step))
        plain.step(told, None, Step(step))
        last = told.weights if last is None else 0.9 * last + 0.1 * told.weights
        close(grads.weights, last)


def test_reused_logarithmic_and_cut_weights() -> None:
    method, used = methods.build("stabilised", use="pcgrad", update_every=3), []
    state = method.init(3)
    for step in range(6):
        grads = DenseGradients(JACOBIAN + 0.3 * step)
        state, status = method.step(grads, state, Step(step))
        used.append((status, tuple(grads.weights.tolist())))
    assert [status for status, _ in used] == ["ok", "reused", "reused"] * 2
    assert len({weights for _, weights in used}) == 2
    logs = methods.weights("stabilised", JACOBIAN, LOSSES, use="mgda", log_losses=True)
    close(logs, methods.weights("mgda", JACOBIAN / LOSSES[:, None]) / LOSSES)
    cut = methods.combine("stabilised", JACOBIAN, use="cagrad", params={"c": 0.4}, max_norm=0.1)
    assert float(cut.norm()) == pytest.approx(0.1)
    close(cut / cut.norm(), update("cagrad", c=0.4) / update("cagrad", c=0.4).norm())


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("stabilised", {"use": "graddrop"}, "no plain weighting"),
        ("stabilised", {"use": "stabilised"}, "no plain weighting"),
        ("stabilised", {"use": "uw", "max_norm": 1.0}, "losses only"),
        ("stabilised", {"use": "modo"}, "no plain weighting"),
        ("stabilised", {"use": "db_mtl@libmtl"}, "no plain weighting"),
    ],
)
def test_what_cannot_be_done_is_refused(name: str, params: dict, said: str) -> None:
    with pytest.raises(OutOfDomain, match=said):
        methods.build(name, **params)


def test_every_preset_changes_something_or_names_the_default() -> None:
    same = set()
    for name, entry in registry.builtin("method").items():
        for preset, values in entry.presets.items():
            if all(entry.defaults[key] == value for key, value in values.items()):
                same.add(f"{name}@{preset}")
    assert same == {"aligned_mtl@official", "stch_mtl@libmtl", "uw@nash"}
