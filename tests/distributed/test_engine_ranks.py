"""The engine on 1, 2 and 4 real gloo ranks against the dense single-process oracle, for every method."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))

import cases
from crew import crew

from mtlfleet.engine import GradientEngine, StepInfo
from mtlfleet.errors import EngineRefused


@pytest.fixture(scope="module")
def oracle() -> dict[str, list[dict[str, Tensor]]]:
    return {name: cases.by_oracle(name) for name in cases.names()}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_method_equals_the_dense_oracle(world: int, oracle: dict[str, list[dict[str, Tensor]]]) -> None:
    ranks = crew(world, cases.by_engine, cases.names())
    for name, steps in oracle.items():
        for rank in range(world):
            for step, expected in enumerate(steps):
                assert cases.relative(ranks[rank][name][step], expected) < 2e-6, (name, rank, step)
            # Every rank holds the same bits: otherwise replicas drift apart unseen.
            for mine, first in zip(ranks[rank][name], ranks[0][name], strict=True):
                assert all(torch.equal(mine[n], first[n]) for n in mine), (name, rank)


def test_same_world_same_bits() -> None:
    once, again = (crew(2, cases.by_engine, ["pcgrad", "sum"]) for _ in range(2))
    for name in ("pcgrad", "sum"):
        for one, two in zip(once[0][name], again[0][name], strict=True):
            assert all(torch.equal(one[n], two[n]) for n in one)


def _exchanges(rank: int, world: int) -> list[dict[str, Tensor]]:
    ways = (("fp32", "auto"), ("fp32", "allreduce"), ("bf16", "auto"))
    return [cases.by_engine(rank, world, ["mgda"], wire, exchange)["mgda"][0] for wire, exchange in ways]


def test_other_exchanges_agree_and_bf16_is_only_coarser() -> None:
    exact, whole, coarse = crew(2, _exchanges)[0]
    assert cases.relative(whole, exact) < 1e-6
    assert 1e-6 < cases.relative(coarse, exact) < 3e-2


def _absent(rank: int, world: int) -> dict[str, Tensor]:
    """Task gamma has no sample on rank 1, and joins late: the ranks' graphs differ."""
    model = cases.net()
    engine = GradientEngine(model, "sum")
    x, y = cases.data(0)
    for step in range(2):
        losses = {t: v.mean() for t, v in model.losses(x, y).items()}
        if rank == 1 or step == 0:
            losses.pop("gamma")
        if rank == 0 and step == 0:
            losses["gamma"] = model.losses(x, y)["gamma"].mean()
        model.zero_grad(set_to_none=True)
        engine.step(losses)
    return cases.gradients(model)


def test_a_task_absent_on_a_rank_counts_as_zero_there() -> None:
    ranks = crew(2, _absent)
    assert all(torch.equal(ranks[0][n], ranks[1][n]) for n in ranks[0])
    model = cases.net()
    losses = {t: v.mean() for t, v in model.losses(*cases.data(0)).items()}
    (losses["alpha"] + losses["beta"] + 0.5 * losses["gamma"]).backward()
    assert cases.relative(ranks[0], cases.gradients(model)) < 1e-6


def _nan(rank: int, world: int, name: str) -> tuple[bool, bool, bool, object]:
    model = cases.net()
    engine = GradientEngine(model, name)
    x, y = cases.data(0)
    engine.step({t: v.mean() for t, v in model.losses(x, y).items()})
    before = engine.state_dict()["method"]
    model.zero_grad(set_to_none=True)
    losses = {t: v.mean() for t, v in model.losses(x, y).items()}
    if rank == 1:
        losses["beta"] = losses["beta"] * torch.nan
    info = engine.step(losses)
    kept = str(engine.state_dict()["method"]) == str(before)
    return info.skipped, not cases.gradients(model), kept, info.status


def _nans(rank: int, world: int) -> list[tuple[bool, bool, bool, object]]:
    return [_nan(rank, world, name) for name in ("uw", "mgda")]


def test_one_nan_on_one_rank_skips_the_step_on_all() -> None:
    for skipped, no_gradients, state_kept, status in itertools.chain(*crew(2, _nans)):
        assert skipped
        assert no_gradients
        assert state_kept
        assert "not finite" in str(status)


AHEAD = ("all", "all", "all", "absent", "all", "all", "nan", "all", "frozen", "all")


def _ahead(rank: int, world: int) -> tuple[list[dict[str, Tensor]], list[StepInfo], list[int]]:
    """Steps of a tiny model: words and task gradients travel together from the third on. On rank 1 a task is absent, a
    loss is no number, a parameter is frozen. Gradients, infos and the number of messages, by step."""
    model, found, infos, counts = cases.net(), [], [], []
    engine = GradientEngine(model, "mgda")
    sent: list[str] = []
    patch = pytest.MonkeyPatch()
    for name in ("all_to_all_single", "all_reduce", "all_gather_object", "all_gather_single"):
        if hasattr(dist, name):
            plain = getattr(dist, name)
            patch.setattr(dist, name, lambda *a, _n=name, _p=plain, **k: (sent.append(_n), _p(*a, **k))[1])
    for step, what in enumerate(AHEAD):
        x, y = (v[rank * 6 : rank * 6 + 6] if world > 1 else v[:12] for v in cases.data(step))
        model.pair.weight.requires_grad_(what != "frozen")
        losses = {t: v.mean() for t, v in model.losses(x, y).items()}
        if what == "absent" and world == 1:
            losses["gamma"] = model.losses(x[:6], y[:6])["gamma"].mean() / 2
        elif what == "absent" and rank == 1:
            losses.pop("gamma")
        if what == "nan" and rank == world - 1:
            losses["beta"] = losses["beta"] * torch.nan
        sent.clear()
        infos.append(engine.step(losses))
        counts.append(len(sent))
        found.append(cases.gradients(model))
        model.zero_grad(set_to_none=True)
    patch.undo()
    return found, infos, counts


def test_words_and_task_gradients_of_a_tiny_model_are_one_message() -> None:
    alone, told, _ = _ahead(0, 1)
    for found, infos, counts in crew(2, _ahead):
        for step, what in enumerate(AHEAD):
            assert infos[step].skipped == (what == "nan")
            assert found[step].keys() == alone[step].keys()
            if what != "nan":
                assert cases.relative(found[step], alone[step]) < 2e-6, (step, what)
                torch.testing.assert_close(infos[step].losses, told[step].losses, rtol=1e-6, atol=0)
        assert counts[2] == counts[6] == counts[7] == 1
        assert counts[5] == 2  # looked for again in the step before
        assert counts[3] > 2  # the message that was of no use among them
        assert counts[4] > 2


def _ddp(rank: int, world: int) -> tuple[float, str]:
    """K backwards through a find_unused_parameters wrapper: how far the ranks end up apart; and what the engine
    says."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"t": nn.Linear(4, 4), "a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = model

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = self.m["t"](x).relu()
            return self.m["a"](z).square().mean(), self.m["b"](z).square().mean()

    wrapped = DistributedDataParallel(Both(), find_unused_parameters=True)
    one, two = wrapped(torch.randn(8, 4, generator=torch.Generator().manual_seed(rank)))
    one.backward(retain_graph=True)
    two.backward()
    grad = model["t"].weight.grad.clone()
    other = grad.clone()
    torch.distributed.broadcast(other, src=0)
    try:
        GradientEngine(wrapped, "mgda")
    except EngineRefused as refusal:
        return float((grad - other).norm() / other.norm()), str(refusal)
    return 0.0, "accepted"


def test_a_ddp_trunk_is_refused_because_it_is_silently_wrong() -> None:
    (_, said), (apart, _) = crew(2, _ddp)
    assert apart > 0.1, "torch no longer corrupts this: the refusal can be reconsidered"
    assert "DistributedDataParallel" in said
    assert "model.module" in said
