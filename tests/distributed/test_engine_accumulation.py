"""Micro-batches in each declared way against the dense oracle of the whole batch; what travels; what a skip leaves."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import cases
import large
from crew import crew_or_alone

from mtlfleet.engine import Diverged, GradientEngine
from mtlfleet.engine.accumulation import ACCUMULATIONS
from mtlfleet.engine.gradients import Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.errors import EngineRefused

MICRO = 3
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half": {"loss_scale": 1024.0},
    "chunked": {"backward": "batched", "chunk": 2},
}
METHODS = ("mgda", "nash_mtl", "uw", "graddrop")


def micro(model: cases.Net, step: int, rank: int, world: int, place: int) -> dict[str, Tensor]:
    """Losses of one micro-batch. beta misses the second one; gamma, on the last rank, the first."""
    losses, _ = large.local(model, step, rank, world, (place, MICRO))
    if place == 1:
        losses.pop("beta")
    if place == 0 and rank and rank == world - 1:
        losses.pop("gamma")
    return losses


def jacobian(model: cases.Net, step: int, world: int, places: range) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Rows [K, P], losses [K] and plain gradients of the heads, of some micro-batches of all ranks together."""
    shared = [p for n, p in model.named_parameters() if n.startswith(("trunk", "pair"))]
    total: dict[str, Tensor] = {task: torch.zeros(()) for task in cases.TASKS}
    for rank in range(world):
        for place in places:
            for task, loss in micro(model, step, rank, world, place).items():
                total[task] = total[task] + loss / world
    rows, heads = [], {}
    for task, loss in total.items():
        own = dict(model.heads[task].named_parameters(prefix=f"heads.{task}"))
        found = torch.autograd.grad(loss, [*shared, *own.values()], retain_graph=True, allow_unused=True)
        parts = zip(shared, found[: len(shared)], strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in parts]))
        heads |= dict(zip(own, found[len(shared) :], strict=True))
    return torch.stack(rows), torch.stack(list(total.values())), heads


def oracle(name: str, way: str, world: int) -> list[dict[str, Tensor]]:
    """Two steps of a method on the whole batch, or with the weights of the first micro-batch."""
    model, method = cases.net(), cases.build(name)
    state, expected = method.init(len(cases.TASKS)), []
    for number in range(2):
        rows, losses, heads = jacobian(model, number, world, range(MICRO))
        looked = (rows, losses) if way != "first" else jacobian(model, number, world, range(1))[:2]
        view = DenseGradients(*looked)
        state, _ = method.step(view, state, Step(number, number, 3))
        weights = torch.ones(len(rows)) if view.weights is None else view.weights.float()
        direction = view.direction() if way != "first" else weights @ rows
        found, cursor = {}, 0
        for n, p in model.named_parameters():
            if n.startswith(("trunk", "pair")):
                found[n] = direction[cursor : cursor + p.numel()].view_as(p)
                cursor += p.numel()
        for n, gradient in heads.items():
            found[n] = gradient * (weights[cases.TASKS.index(n.split(".")[1])] if method.heads == "weighted" else 1.0)
        expected.append(found)
    return expected


def run(engine: GradientEngine, model: cases.Net, step: int, rank: int, world: int, spoilt: int | None = None) -> Any:
    """One step; micro-batch ``spoilt`` is not a number on the last rank."""
    for place in range(MICRO):
        losses = micro(model, step, rank, world, place)
        if place == spoilt and rank == world - 1:
            losses["alpha"] = losses["alpha"] * torch.nan
        if place < MICRO - 1:
            engine.accumulate(losses, epoch=step)
    return engine.step(losses, epoch=step)


class Wide(nn.Module):
    """So large that what travels besides gradients does not count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk, self.heads = nn.Linear(100, 800), nn.ModuleList([nn.Linear(800, 1, bias=False) for _ in range(3)])

    def losses(self, rank: int) -> dict[str, Tensor]:
        z = self.trunk(torch.ones(2, 100) + rank)
        return {f"t{k}": (head(z) - k).square().mean() for k, head in enumerate(self.heads)}


def _sent(method: str, way: str, rank: int) -> float:
    """Bytes of a step, in units of what one gradient's reduction to shards takes."""
    model = Wide()
    engine = GradientEngine(model, method, accumulation=way)
    for _ in range(MICRO - 1):
        engine.accumulate(model.losses(rank))
    info = engine.step(model.losses(rank))
    return info.bytes_sent / (sum(p.numel() for p in model.trunk.parameters()) * 2)


def _skipping(way: str, rank: int, world: int) -> dict[str, Any]:
    """A spoilt step between two good ones, then too many in a row."""
    model = cases.net()
    engine = GradientEngine(model, cases.build("nash_mtl"), accumulation=way, seed=3, max_skips=1)
    run(engine, model, 0, rank, world)
    before = str(engine.state_dict()["method"])
    model.zero_grad(set_to_none=True)
    info = run(engine, model, 5, rank, world, spoilt=0)
    found = {"skipped": info.skipped, "skips": info.skips, "empty": not cases.gradients(model)}
    found["kept"] = before == str(engine.state_dict()["method"])
    engine.steps = 1
    again = run(engine, model, 1, rank, world)
    found |= {"after": cases.gradients(model), "again": again.skips}
    run(engine, model, 2, rank, world, spoilt=MICRO - 1)
    try:
        run(engine, model, 3, rank, world, spoilt=1)
    except Diverged as end:
        saved = engine.state_dict()["skips"]
        found |= {"end": str(end), "saved": saved}
    return found


def _all(rank: int, world: int) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for size in ("small", "large")[world == 1 :]:
        if size == "large":
            large.as_large()
        for way, method in itertools.product(ACCUMULATIONS, METHODS if size == "large" else ("mgda", "uw")):
            if (way, method) == ("first", "graddrop"):
                continue
            for options in OPTIONS if (size, method) == ("large", "mgda") else ["plain"]:
                model = cases.net()
                engine = GradientEngine(model, cases.build(method), accumulation=way, seed=3, **OPTIONS[options])
                found[size, way, method, options] = steps = []
                for number in range(2):
                    info = run(engine, model, number, rank, world)
                    steps.append((cases.gradients(model), info))
        if size == "large":
            large.as_large(8192)
        for way, method in itertools.product(ACCUMULATIONS, ("mgda", "sum")):
            found["bytes", size, way, method] = _sent(method, way, rank)
    found["skips"] = {way: _skipping(way, rank, world) for way in ACCUMULATIONS}
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_each_way_gives_the_whole_batchs_update_or_says_what_it_gives(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = crew_or_alone(world, monkeypatch, _all)
    expected = {(m, w): oracle(m, w, world) for m in METHODS for w in ACCUMULATIONS if (m, w) != ("graddrop", "first")}
    for key, steps in ranks[0].items():
        if key == "skips" or key[0] == "bytes":
            continue
        _, way, method, _ = key
        for number, (found, info) in enumerate(steps):
            assert cases.relative(found, expected[method, way][number]) < 2e-6, (key, number)
            assert info.approximation == ("first" if way == "first" else None), key
            others = (r[key][number][0] for r in ranks)
            assert all(torch.equal(other[n], found[n]) for other in others for n in found), key
    _check_skips(ranks, world)
    if world == 2:
        _check_bytes(ranks[0])


def _check_skips(ranks: list[dict[Any, Any]], world: int) -> None:
    for way in ACCUMULATIONS:
        for found in (r["skips"][way] for r in ranks):
            assert found["skipped"]
            assert found["empty"]
            assert found["kept"]
            assert (found["skips"], found["again"]) == (1, 0)
            # As if the spoilt step had not been: nothing of its micro-batches is left.
            assert cases.relative(found["after"], oracle("nash_mtl", way, world)[1]) < 2e-6, way
            assert "2 steps in a row had non-finite numbers; max_skips allows 1" in found["end"]
            assert found["saved"] == [2, 3]


def _check_bytes(found: dict[Any, Any]) -> None:
    """K = 3 tasks, three micro-batches, two ranks; gathering the direction counts as one gradient more."""
    for size in ("small", "large"):
        sent = {key[2:]: found[key] for key in found if key[:2] == ("bytes", size)}
        assert sent["reduce", "mgda"] == pytest.approx(3 * 3 + 1, rel=0.1)
        assert sent["local", "mgda"] == pytest.approx(3 + 1, rel=0.1)
        assert sent["first", "mgda"] == pytest.approx(3 + 1 + 1, rel=0.1)
        assert sent["local", "sum"] == pytest.approx(3 + 1, rel=0.1)
        assert sent["first", "sum"] == pytest.approx(1 + 1, rel=0.1)  # one gradient, as without micro-batches


def test_what_has_no_weights_is_refused_by_name() -> None:
    with pytest.raises(EngineRefused, match="'graddrop' has none"):
        GradientEngine(cases.net(), "graddrop", accumulation="first")
    with pytest.raises(ValueError, match="accumulation is one of reduce, local, first"):
        GradientEngine(cases.net(), "mgda", accumulation="sum")
    with pytest.raises(EngineRefused, match="computes none"):
        GradientEngine(cases.net(), "mgda", accumulation="local", backward="factored")


def test_micro_batches_that_share_other_parameters_are_refused() -> None:
    for way in ACCUMULATIONS:
        model = cases.net()
        engine = GradientEngine(model, "mgda", accumulation=way)
        engine.accumulate(micro(model, 0, 0, 1, 0))
        model.pair.requires_grad_(False)
        with pytest.raises(EngineRefused, match="do not share the same parameters"):
            engine.step(micro(model, 0, 0, 1, 2))
        assert not engine.step(micro(model, 0, 0, 1, 2)).skipped
