"""A sharded optimizer against the ordinary one: the same parameters, the same bytes, 1/W of the state."""

from __future__ import annotations

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

from mtlfleet.engine import GradientEngine, ShardedOptimizer, collect, factored
from mtlfleet.errors import EngineRefused

STEPS = 5
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
}
CASES: list[tuple[str, str, str, dict[str, Any]]] = [  # size, method, optimizer, options of the engine
    ("tiny", "mgda", "adamw", {}),  # unsharded, such a model's rows are summed whole
    ("small", "mgda", "adamw", {}),
    ("small", "sum", "sgd", {}),
    ("large", "mgda", "fused", {}),
    ("large", "graddrop", "adagrad", {}),
    ("large", "sum", "adamw", {"loss_scale": 512.0}),
    ("large", "mgda", "sgd", {"backward": "factored"}),
    ("large", "nash_mtl", "adamw", {"accumulation": "first"}),
]


def decay(name: str, parameter: nn.Parameter) -> dict[str, Any]:
    """No weight decay on biases."""
    return {} if parameter.ndim > 1 else {"weight_decay": 0.0}


def groups(model: nn.Module) -> list[dict[str, Any]]:
    named = list(model.named_parameters())
    return [
        {"params": [p for _, p in named if p.ndim > 1]},
        {"params": [p for _, p in named if p.ndim < 2], **decay("", named[0][1])},
    ]


def train(
    rank: int, world: int, method: str, optimizer: str, options: dict[str, Any], sharded: bool
) -> tuple[dict[str, Tensor], int, int, list[float]]:
    """Parameters after five clipped steps; bytes sent; numbers of state; norms before clipping."""
    model = cases.net()
    engine = GradientEngine(model, cases.build(method), seed=3, **options)
    make = OPTIMIZERS[optimizer]
    grouping = optimizer == "adamw"
    if sharded:
        chosen: Any = engine.sharded_optimizer(make, options=decay if grouping else None)
    else:
        chosen = make(groups(model) if grouping else model.parameters())
    sent, norms = engine.exchange.bytes_sent, []
    for step in range(STEPS):
        if "accumulation" in options:
            engine.accumulate(large.local(model, step, rank, world, (0, 2))[0])
            engine.step(large.local(model, step, rank, world, (1, 2))[0])
        else:
            engine.step(large.local(model, step, rank, world)[0])
        norms.append(engine.clip_(0.3))
        chosen.step()
        chosen.zero_grad()
    real = chosen.optimizer if sharded else chosen
    kept = sum(v.numel() for s in real.state.values() for v in s.values() if isinstance(v, Tensor) and v.dim())
    values = {n: p.detach().clone() for n, p in model.named_parameters()}
    return values, engine.exchange.bytes_sent - sent, kept, norms


def resumed(rank: int, world: int) -> dict[str, Any]:
    """Three steps, a checkpoint, two more in a new engine; and what another rank's state is met with."""
    ways: dict[str, Any] = {}
    for way in ("through", "stopped"):
        model = cases.net()
        engine = GradientEngine(model, "mgda")
        optimizer = engine.sharded_optimizer(OPTIMIZERS["fused"])
        for step in range(STEPS):
            if step == 3 and way == "stopped":
                weights, state, saved = model.state_dict(), engine.state_dict(), optimizer.state_dict()
                model = cases.net()
                model.load_state_dict(weights)
                engine = GradientEngine(model, "mgda")
                optimizer = engine.sharded_optimizer(OPTIMIZERS["fused"])
                engine.load_state_dict(state)
                optimizer.load_state_dict(saved)
                for false in ({"rank": world}, {"world": world + 1}):
                    with pytest.raises(EngineRefused, match="this is rank"):
                        optimizer.load_state_dict(saved | false)
            engine.step(large.local(model, step, rank, world)[0])
            optimizer.step()
            optimizer.zero_grad()
        ways[way] = {n: p.detach().clone() for n, p in model.named_parameters()}
    return ways


def skipped(rank: int, world: int) -> bool:
    """A step with a number that is none moves nothing, whatever was there before."""
    model = cases.net()
    engine = GradientEngine(model, "graddrop")
    optimizer = engine.sharded_optimizer(OPTIMIZERS["sgd"])
    engine.step(large.local(model, 0, rank, world)[0])
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    losses, _ = large.local(model, 1, rank, world)
    if rank == world - 1:
        # Finite losses: the gradient of one of them, on one rank, is not.
        losses["gamma"] = losses["gamma"] + (model.trunk[0].weight[0, 0] * 0.0).sqrt()
    info = engine.step(losses)
    optimizer.step()
    same = all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))
    return info.skipped and same and optimizer.bytes_sent == 0


def _all(rank: int, world: int) -> dict[str, Any]:
    factored.gain = lambda *_: 1.0  # type: ignore[assignment]  # every layer that can be is factored
    found: dict[str, Any] = {"cases": []}
    for size, method, optimizer, options in CASES:
        if size == "small":
            collect.WHOLE = 0
        if size == "large":
            large.as_large()
        found["cases"].append([train(rank, world, method, optimizer, options, sharded) for sharded in (False, True)])
    return found | {"resumed": resumed(rank, world), "skipped": skipped(rank, world)}


@pytest.mark.parametrize("world", [1, 2])
def test_shards_lead_to_the_same_parameters_for_the_same_bytes(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = crew_or_alone(world, monkeypatch, _all)
    for place, case in enumerate(CASES):
        size, method, optimizer, _ = case
        (plain, sent, kept, norms), (values, sent_sharded, kept_sharded, norms_sharded) = ranks[0]["cases"][place]
        assert cases.relative(values, plain) < 1e-6, case
        assert norms_sharded == pytest.approx(norms, rel=1e-5), case
        for other in (r["cases"][place][1][0] for r in ranks):
            assert all(torch.equal(other[n], values[n]) for n in values), case
        if world > 1 and size == "tiny":
            assert sent_sharded < sent
        elif world > 1:
            # The norm of a direction that is no weighting of task gradients costs one float64 a step.
            assert sent_sharded - sent == (0 if method == "mgda" else STEPS * 8), case
        _check_state(optimizer, kept, sum(r["cases"][place][1][2] for r in ranks), kept_sharded, world)
    for rank in ranks:
        assert all(torch.equal(rank["resumed"]["through"][n], p) for n, p in rank["resumed"]["stopped"].items())
        assert rank["skipped"]


def _check_state(optimizer: str, plain: int, everywhere: int, here: int, world: int) -> None:
    """What all ranks keep of the shared parameters is what one would; what one rank keeps, a W-th of it."""
    model = cases.net()
    numbers = {n: p.numel() for n, p in model.named_parameters()}
    shared = sum(v for n, v in numbers.items() if n.startswith(("trunk", "pair")))
    own = sum(v for n, v in numbers.items() if n.startswith("heads"))
    # Adagrad makes its state at once, for parameters too that never get a gradient.
    own += (9 + 3 + 5) if optimizer == "adagrad" else 0
    copies = plain // (shared + own)
    assert plain == copies * (shared + own)
    assert everywhere == copies * (shared + world * own)
    assert abs(here - copies * (shared / world + own)) <= copies * world


def lamb(parameters: Any) -> torch.optim.Optimizer:
    """An optimizer of someone else's whose step has the length of the tensor."""

    class Trust(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p -= group["lr"] * p.norm() / p.grad.norm() * p.grad

    return Trust(parameters, lr=0.0)  # a warm-up starts at zero


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (torch.optim.LBFGS, "LBFGS cannot be sharded"),
        (torch.optim.Adafactor, "Adafactor cannot be sharded.*\n.*moves elsewhere than on the whole one"),
        (torch.optim.Muon, "Muon cannot be sharded.*\n.*takes a matrix but not a flat part"),
        (torch.optim.SparseAdam, "SparseAdam cannot be sharded.*\n.*cannot step on dense gradients alone"),
        (lamb, "Trust cannot be sharded.*\n.*moves elsewhere"),
    ],
)
def test_optimizers_that_look_at_whole_tensors_are_refused(make: Any, why: str) -> None:
    engine = GradientEngine(cases.net(), "mgda")
    state = torch.random.get_rng_state()
    with pytest.raises(EngineRefused, match=why):
        engine.sharded_optimizer(make)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(engine.sharded_optimizer(OPTIMIZERS["sgd"]), ShardedOptimizer)
    with pytest.raises(EngineRefused, match="it has one"):
        engine.sharded_optimizer(OPTIMIZERS["sgd"])


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "ASGD", "Rprop"]
)
def test_torchs_elementwise_optimizers_are_taken(name: str) -> None:
    make = getattr(torch.optim, name)
    ends = []
    for sharded in (False, True):
        model = cases.net()
        engine = GradientEngine(model, "mgda")
        optimizer = (
            engine.sharded_optimizer(lambda p: make(p, lr=0.01)) if sharded else make(model.parameters(), lr=0.01)
        )
        for step in range(3):
            engine.step(large.local(model, step, 0, 1)[0])
            optimizer.step()
        ends.append({n: p.detach().clone() for n, p in model.named_parameters()})
    assert cases.relative(ends[1], ends[0]) < 1e-6


def test_a_changed_set_of_shared_parameters_is_refused_and_a_changed_value_is_not() -> None:
    model = cases.net()
    engine = GradientEngine(model, "mgda")
    optimizer = engine.sharded_optimizer(OPTIMIZERS["sgd"])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.optimizer, 1, gamma=0.0)
    optimizer.step()  # before any gradient: nothing
    engine.step(large.local(model, 0, 0, 1)[0])
    optimizer.step()
    scheduler.step()
    with torch.no_grad():
        model.trunk[0].weight.fill_(2.0)
    engine.step(large.local(model, 1, 0, 1)[0])
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert torch.equal(model.trunk[0].weight, torch.full_like(model.trunk[0].weight, 2.0))
    model.pair.requires_grad_(False)
    with pytest.raises(EngineRefused, match="what is shared has changed"):
        engine.step(large.local(model, 2, 0, 1)[0])
    half = cases.net().bfloat16()
    with pytest.raises(EngineRefused, match=r"one tensor of torch\.float32"):
        engine = GradientEngine(half, "mgda")
        engine.sharded_optimizer(OPTIMIZERS["sgd"])
        engine.step({t: v.mean() for t, v in half.losses(*(x.bfloat16() for x in cases.data(0))).items()})
