"""Every way of computing a step against the dense oracle; approximations against what they approximate."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import cases
import large
from crew import crew, crew_or_alone

from mtlfleet.engine import GradientEngine, average_buffers, factored
from mtlfleet.engine.gradients import Needs
from mtlfleet.errors import EngineRefused

EXACT: dict[str, dict[str, Any]] = {
    "sequential": {},
    "batched": {"backward": "batched"},
    "chunked": {"backward": "batched", "chunk": 2},
    "factored": {"backward": "factored"},
    "half": {"loss_scale": 1024.0},
}


def _ways(rank: int, world: int) -> dict[tuple[str, str], Any]:
    large.as_large()
    factored.gain = lambda *_: 1.0  # type: ignore[assignment]  # every layer that can be is factored
    return {(m, w): large.run(rank, world, m, **o) for m in ("mgda", "nash_mtl", "sum") for w, o in EXACT.items()}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_exact_way_through_buckets_equals_the_oracle(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = crew_or_alone(world, monkeypatch, _ways)
    for (method, way), (steps, infos) in ranks[0].items():
        expected = cases.by_oracle(method)
        for found, right in zip(steps, expected, strict=False):
            assert cases.relative(found, right) < 1e-6, (method, way)
        assert all(torch.equal(r[method, way][0][-1][n], steps[-1][n]) for r in ranks for n in steps[-1]), (method, way)
        if method != "sum":
            assert infos[0].backward.startswith({"chunked": "batched", "half": "sequential"}.get(way, way)), infos[
                0
            ].backward
            assert infos[0].approximation is None
            norm = torch.stack([g.norm() for n, g in steps[0].items() if n.startswith(("trunk", "pair"))]).norm()
            assert infos[0].update_norm == pytest.approx(float(norm), rel=1e-5)


class Tower(nn.Module):
    """One representation that all heads read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(5, 2) for _ in range(3)])

    def forward(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        z = self.trunk(x)
        return {f"t{k}": (head(z) - (k + 1) * y).square().mean() for k, head in enumerate(self.heads)}, z


@dataclass(frozen=True)
class AtRepresentation:
    """Weights 1 / (own norm at the representation)."""

    convention: str = "concat"
    name = "at_representation"
    needs = Needs.REPRESENTATION
    heads = "unweighted"

    def init(self, tasks: int) -> None:
        return None

    def pack(self, state: None) -> None:
        return None

    def step(self, grads: Any, state: None, at: Any) -> tuple[None, str]:
        gram = grads.representation.gram(self.convention)
        grads.representation.apply(gram.diagonal().rsqrt())
        return None, "ok"


def _tower(rank: int, world: int) -> dict[str, Any]:
    x, y = (v[: 12 // world * world].chunk(world)[rank] for v in cases.data(0))
    found: dict[str, Any] = {}
    for big in (False, True):
        if big:
            large.as_large()
        for name, method, options in (
            ("first", "mgda", {}),
            ("ub", "mgda", {"approximate": "ub"}),
            ("sketch", "mgda", {"approximate": "sketch"}),
            ("concat", AtRepresentation(), {}),
            ("batch_sum", AtRepresentation("batch_sum"), {}),
            ("grams", Groups(), {}),
        ):
            model = Tower()
            engine = GradientEngine(model, method, **options)
            losses, z = model(x, y)
            info = engine.step(losses, features=z)
            found[f"{name} {big}"] = (cases.gradients(model), info)
        model = Tower()
        engine = GradientEngine(model, "mgda")
        for last, part in enumerate(zip(x.chunk(2), y.chunk(2), strict=True)):
            losses = {task: loss / 2 for task, loss in model(*part)[0].items()}
            if last:
                found[f"micro {big}"] = (None, engine.step(losses))
            else:
                engine.accumulate(losses)
        found[f"micro {big}"] = (cases.gradients(model), found[f"micro {big}"][1])
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(float(rank))  # type: ignore[union-attr]
    average_buffers(norm, engine.exchange)
    found["running mean"] = norm.running_mean
    return found


@dataclass(frozen=True)
class Groups(AtRepresentation):
    """The sum of all groups' Grams must be the whole one; each tensor's weights are the inverse of its norms."""

    needs = Needs.GRAM

    def step(self, grads: Any, state: None, at: Any) -> tuple[None, str]:
        whole, (layers, by_layer), (tensors, each) = grads.gram(), grads.grams("layer"), grads.grams("tensor")
        assert layers == ("trunk.0", "trunk.2")
        assert tensors == ("trunk.0.weight", "trunk.0.bias", "trunk.2.weight", "trunk.2.bias")
        torch.testing.assert_close(by_layer.sum(0), whole)
        torch.testing.assert_close(each.sum(0), whole)
        grads.apply_grouped(each.diagonal(dim1=1, dim2=2).rsqrt())
        return None, "ok"


def _by_hand() -> dict[str, dict[str, Tensor]]:
    """What each view should lead to, with autograd alone."""
    model = Tower()
    losses, z = model(*(v[:12] for v in cases.data(0)))
    trunk = dict(model.trunk.named_parameters(prefix="trunk"))
    dz = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in losses.values()])
    rows = [torch.autograd.grad(loss, list(trunk.values()), retain_graph=True) for loss in losses.values()]
    weights = {"concat": 1 / dz.flatten(1).norm(dim=1), "batch_sum": 1 / dz.sum(1).norm(dim=1)}
    expected = {
        w: {n: sum(v[k] * rows[k][i] for k in range(3)) for i, n in enumerate(trunk)} for w, v in weights.items()
    }
    expected["grams"] = {n: sum(rows[k][i] / rows[k][i].norm() for k in range(3)) for i, n in enumerate(trunk)}  # type: ignore[misc]
    return expected  # type: ignore[return-value]


@pytest.mark.parametrize("world", [1, 2])
def test_views_give_what_autograd_gives_and_approximations_say_so(world: int) -> None:
    found, expected = crew(world, _tower)[0], _by_hand()
    assert found["running mean"].tolist() == [(world - 1) / 2] * 2
    for big in (False, True):
        for view in ("concat", "batch_sum", "grams"):
            grads = {n: g for n, g in found[f"{view} {big}"][0].items() if n in expected[view]}
            assert cases.relative(grads, expected[view]) < 2e-6, (view, big)
        exact, info = found[f"first {big}"]
        assert info.backward == "heads first"
        assert cases.relative(found[f"micro {big}"][0], exact) < 2e-6
        for name in ("ub", "sketch"):
            near, told = found[f"{name} {big}"]
            assert told.approximation == name
            direction = (
                torch.cat([g.flatten() for g in exact.values()]),
                torch.cat([g.flatten() for g in near.values()]),
            )
            assert torch.cosine_similarity(*direction, dim=0) > 0.5
            heads = {n: g for n, g in exact.items() if n.startswith("heads")}
            assert cases.relative({n: near[n] for n in heads}, heads) < 1e-6


def test_a_model_without_one_representation_is_refused_not_approximated() -> None:
    model = cases.net()
    with pytest.raises(EngineRefused, match="shows none"):
        GradientEngine(model, "mgda", approximate="ub").step(large.local(model, 0, 0, 1)[0])


def test_stale_weights_are_the_last_ones_and_labelled() -> None:
    (steps, infos), (exact, told) = large.run(0, 1, "mgda", 5, every=3), large.run(0, 1, "mgda", 1)
    assert [info.approximation for info in infos] == [None, "stale", "stale", None, "stale"]
    assert torch.equal(infos[0].weights, told[0].weights)
    assert torch.equal(infos[1].weights, infos[0].weights)
    assert not torch.equal(infos[3].weights, infos[0].weights)
    assert cases.relative(steps[0], exact[0]) < 1e-6


@dataclass(frozen=True)
class Crossed(AtRepresentation):
    """Equal weights, after a look at the cross-Gram of two batches."""

    needs = Needs.GRAM
    batches = 2

    def step(self, grads: Any, state: None, at: Any) -> tuple[None, str]:
        crossed = grads.cross_gram(0, 1)
        torch.testing.assert_close(crossed, grads.cross_gram(1, 0).t())
        grads.apply(crossed.sum(1))
        return None, "ok"


def test_two_batches_give_the_cross_gram_and_the_last_ones_update() -> None:
    model = Tower()
    pairs = [model(*cases.data(step)) for step in range(2)]
    rows = []
    for losses, _ in pairs:
        each = [torch.autograd.grad(v, list(model.trunk.parameters()), retain_graph=True) for v in losses.values()]
        rows.append(torch.stack([torch.cat([g.flatten() for g in task]) for task in each]))
    weights = (rows[0] @ rows[1].T).sum(1)
    GradientEngine(model, Crossed()).step([losses for losses, _ in pairs])
    found = torch.cat([p.grad.flatten() for p in model.trunk.parameters() if p.grad is not None])
    torch.testing.assert_close(found, weights @ rows[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="2 batches"):
        GradientEngine(Tower(), Crossed()).step(pairs[0][0])
