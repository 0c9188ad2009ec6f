"""What people do to models: autocast, checkpoints, compiled trunks, batch norm, inputs of their own for each head."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._functorch import config
from torch.utils.checkpoint import checkpoint

from mtlfleet.engine import GradientEngine, Needs, kept_buffers
from mtlfleet.engine import collect as collecting
from mtlfleet.engine import factored as factoring
from mtlfleet.errors import EngineRefused

K = 3
WAYS = ("sequential", "batched", "factored")


@dataclass(frozen=True)
class Half:
    """Weights 0.5, 1, 1.5 ... after a look at the Gram."""

    name = "half"
    needs = Needs.GRAM
    heads = "unweighted"

    def init(self, tasks: int) -> None:
        return None

    def pack(self, state: None) -> None:
        return None

    def step(self, grads: Any, state: None, at: Any) -> tuple[None, str]:
        grads.gram()
        grads.apply(torch.arange(1, len(grads.losses) + 1) / 2)
        return None, "ok"


@pytest.fixture(params=[False, True], ids=["together", "buckets"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of travelling; every layer that can be factored is."""
    monkeypatch.setattr(factoring, "gain", lambda *_: 1.0)
    if request.param:
        monkeypatch.setattr(collecting, "TOGETHER", 0)


def trunk(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), *more, nn.ReLU(), nn.Linear(8, 5), nn.ReLU())


def heads() -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(5, 2) for _ in range(K)])


def check(model: nn.Module, losses: Callable[[], dict[str, Tensor]], way: str, tolerance: float = 1e-6) -> Any:
    """One step of the engine against the gradient of the same weighted sum: plain losses for what one task reaches."""
    engine = GradientEngine(model, Half(), backward=way)
    info = engine.step(losses())
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    mine = losses()
    shared = set(engine.reach.shared_names)
    total = torch.stack([loss * (k + 1) / 2 for k, loss in enumerate(mine.values())]).sum()
    named = [(n, p) for n, p in model.named_parameters() if n in found]
    weighted = torch.autograd.grad(total, [p for _, p in named], retain_graph=True, allow_unused=True)
    plain = torch.autograd.grad(torch.stack(list(mine.values())).sum(), [p for _, p in named], allow_unused=True)
    for (name, _), one, other in zip(named, weighted, plain, strict=True):
        right = one if name in shared else other
        assert right is not None, name
        gap = float((found[name] - right).norm() / right.norm().clamp_min(1e-6))
        assert gap < tolerance, (name, gap)
    return info


def fitting(model: nn.Module, run: Callable[[Tensor], Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Losses of ``heads`` on ``run(x)``."""
    x, y = torch.randn(9, 6, generator=torch.Generator().manual_seed(4)), torch.ones(9, 2)

    def losses() -> dict[str, Tensor]:
        z = run(x)
        return {f"t{k}": (head(z) - k * y).float().square().mean() for k, head in enumerate(model["heads"])}  # type: ignore[index]

    return losses


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "what", ["plain", "checkpoint", "inplace", "groupnorm", "batchnorm", "dropout", "embedding", "twice", "compiled"]
)
@pytest.mark.usefixtures("path")
def test_common_trunks_give_autograds_gradient(what: str, way: str) -> None:
    more = {
        "inplace": [nn.ReLU(inplace=True)],
        "groupnorm": [nn.GroupNorm(2, 8)],
        "batchnorm": [nn.BatchNorm1d(8)],
        "dropout": [nn.Dropout(0.5)],
        "twice": [nn.Linear(8, 8)],
    }.get(what, [])
    model = nn.ModuleDict({"trunk": trunk(*more), "heads": heads()})
    run: Callable[[Tensor], Tensor] = model["trunk"]
    if what == "checkpoint":
        run = lambda x: checkpoint(model["trunk"], x.requires_grad_(), use_reentrant=False)  # noqa: E731
    if what == "twice":
        inner = model["trunk"]
        run = lambda x: inner[2:](inner[1](inner[1](inner[0](x)).tanh()))  # type: ignore[index]  # noqa: E731
    if what == "compiled":
        run = torch.compile(model["trunk"], backend="aot_eager")
    if what == "embedding":  # a table that is not factored, of two axes
        model["table"] = nn.Embedding(9, 6)
        run = lambda x: model["trunk"](model["table"](torch.arange(9)))  # noqa: E731
    if what == "batchnorm":
        model["trunk"][0].bias = None  # type: ignore[index]  # its gradient is rounding alone
    if what == "dropout":  # one mask for all passes of a step; the reference draws the same

        def run(x: Tensor) -> Tensor:
            torch.manual_seed(2)
            return model["trunk"](x)  # type: ignore[no-any-return]

    info = check(model, fitting(model, run), way)
    if what == "batchnorm":  # two forward passes in all, however many backward: the engine adds none
        assert int(model["trunk"][1].num_batches_tracked) == 2  # type: ignore[index]
    if what in ("plain", "inplace", "twice") and way == "factored":
        assert info.backward == f"factored, {3 if what == 'twice' else 2} of {K + (3 if what == 'twice' else 2)} layers"


def test_layers_beside_a_compiled_part_are_factored_in_the_first_step_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying the compiled part out must not forget the calls of the others."""
    monkeypatch.setattr(factoring, "gain", lambda *_: 1.0)
    torch._dynamo.reset()
    model = nn.ModuleDict({"trunk": trunk(nn.Tanh()), "after": nn.Linear(5, 5), "heads": heads()})
    compiled = torch.compile(model["trunk"], backend="aot_eager")
    info = check(model, fitting(model, lambda x: model["after"](compiled(x))), "factored")
    assert info.backward.startswith("factored, 1 of")


@pytest.mark.parametrize("way", ["sequential", "batched"])
@pytest.mark.usefixtures("path")
def test_a_compiled_trunk_that_gave_its_tensors_away_is_refused_with_both_ways_out(way: str) -> None:
    """The check is torch's own, and the same for every compiler; with aot_eager it costs no C++ compiler's time."""
    torch._dynamo.reset()
    model = nn.ModuleDict({"trunk": trunk(nn.Tanh()), "heads": heads()})
    losses = fitting(model, torch.compile(model["trunk"], backend="aot_eager"))
    torch.stack(list(losses().values())).sum().backward()  # one pass, no graph kept
    with pytest.raises(EngineRefused, match=r"donated_buffer = False .* or leave that part uncompiled") as refusal:
        GradientEngine(model, Half(), backward=way).step(losses())
    assert "donated buffers" in str(refusal.value.__cause__), "torch says it in other words now"
    check(model, fitting(model, model["trunk"]), way)
    torch._dynamo.reset()
    with config.patch(donated_buffer=False):
        torch.stack(list(losses().values())).sum().backward()
        check(model, losses, way)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inductor's imports
def test_the_compiler_that_writes_cpp_and_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile's inductor needs a C++ compiler on the CPU")
    torch._dynamo.reset()
    model = nn.ModuleDict({"trunk": trunk(nn.Tanh()), "heads": heads()})
    losses = fitting(model, torch.compile(model["trunk"]))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "first"))  # what an earlier run compiled may differ
    check(model, losses, "sequential")  # K passes come first: nothing is given away
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "second"))
    torch.stack(list(losses().values())).sum().backward()
    with pytest.raises(EngineRefused, match="donated_buffer = False"):
        check(model, losses, "sequential")
    torch._dynamo.reset()
    with config.patch(donated_buffer=False):
        # The cache has the backward pass that overwrites, and torch takes it.
        with pytest.raises(EngineRefused, match="another gradient when it is asked a second time"):
            check(model, losses, "sequential")
        torch._dynamo.reset()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "third"))
        torch.stack(list(losses().values())).sum().backward()
        check(model, losses, "sequential")


class CompiledFunction(torch.autograd.Function):
    """exp, whose backward pass spoils what it saved, as code compiled for one pass does; torch's name for such code."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.saved = x.exp()
        return x.exp()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        found = g * ctx.saved
        ctx.saved.mul_(0.5)
        return found


def test_a_compiled_part_that_overwrites_what_it_saved_is_found_out() -> None:
    """The same without a compiler."""
    model = nn.ModuleDict({"trunk": trunk(), "heads": heads()})
    losses = fitting(model, lambda x: CompiledFunction.apply(model["trunk"](x)))  # type: ignore[no-untyped-call]
    for method in ("mgda", "graddrop"):
        with pytest.raises(EngineRefused, match="another gradient when it is asked a second time"):
            GradientEngine(model, method).step(losses())
    with pytest.raises(EngineRefused, match="TORCHINDUCTOR_FX_GRAPH_CACHE=0"):
        GradientEngine(model, "sum", accumulation="local").accumulate(losses())
    assert not GradientEngine(model, "sum").step(losses()).skipped  # one pass is all it was compiled for


def test_a_reentrant_checkpoint_is_refused_with_the_way_out() -> None:
    model = nn.ModuleDict({"trunk": trunk(), "heads": heads()})
    inner = model["trunk"]
    for run in (
        lambda x: checkpoint(inner, x.requires_grad_(), use_reentrant=True),
        lambda x: inner[1:](checkpoint(inner[0], x.requires_grad_(), use_reentrant=True)),  # type: ignore[index]
    ):
        for way in WAYS:
            with pytest.raises(EngineRefused, match="use_reentrant=False"):
                GradientEngine(model, Half(), backward=way).step(fitting(model, run)())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("path")
def test_bfloat16_autocast(way: str) -> None:
    model = nn.ModuleDict({"trunk": trunk(), "heads": heads()})

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model["trunk"](x)  # type: ignore[no-any-return]

    check(model, fitting(model, lambda x: run(x).float()), way, tolerance=2e-2 if way == "factored" else 1e-2)


@pytest.mark.usefixtures("path")
def test_each_head_may_have_inputs_of_its_own() -> None:
    model = nn.ModuleDict({"trunk": trunk(), "heads": heads()})
    drawn = torch.Generator().manual_seed(3)
    inputs = [torch.randn(4 + k, 6, generator=drawn) for k in range(K)]
    for way in WAYS:
        check(
            model,
            lambda: {
                f"t{k}": h(model["trunk"](x)).square().mean()
                for k, (h, x) in enumerate(zip(model["heads"], inputs, strict=True))
            },
            way,
        )  # type: ignore[arg-type]


def test_an_operation_without_a_batching_rule_is_refused_by_name() -> None:
    class Outside(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return torch.from_numpy(g.numpy().copy())

    model = nn.ModuleDict({"trunk": trunk(), "heads": heads()})
    losses = fitting(model, lambda x: Outside.apply(model["trunk"](x)))  # type: ignore[no-untyped-call]
    with pytest.raises(EngineRefused, match="cannot be batched"):
        GradientEngine(model, Half(), backward="batched").step(losses())
    check(model, losses, "sequential")


def test_a_method_that_reads_rows_is_refused_where_there_are_none() -> None:
    @dataclass(frozen=True)
    class Reads(Half):
        needs = Needs.ROWS

    for options in ({"backward": "factored"}, {"approximate": "sketch"}):
        with pytest.raises(EngineRefused, match="only their Gram"):
            GradientEngine(trunk(), Reads(), **options)  # type: ignore[arg-type]


def test_the_loss_scale_halves_on_overflow_and_the_step_is_skipped() -> None:
    model = nn.ModuleDict({"trunk": trunk(), "heads": heads()})
    losses = fitting(model, model["trunk"])
    engine = GradientEngine(model, Half(), loss_scale="dynamic")
    engine.scale.scale = 2.0**127
    first = engine.step({t: loss * 64 for t, loss in losses().items()})
    assert first.skipped
    assert engine.scale.scale == 2.0**126
    engine.scale.scale = 2.0**16
    second = engine.step(losses())
    assert not second.skipped
    assert second.gram is not None
    plain = GradientEngine(model, Half()).step(losses())
    torch.testing.assert_close(second.gram, plain.gram, rtol=1e-5, atol=0)


def test_a_second_look_leaves_running_statistics_alone() -> None:
    norm = nn.BatchNorm1d(3)
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    with kept_buffers(norm):
        norm(torch.randn(5, 3) + 4)
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]
    norm(torch.randn(5, 3) + 4)
    assert not torch.equal(norm.running_mean, before)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    depths=st.lists(st.integers(0, 2), min_size=2, max_size=4),
    frozen=st.integers(0, 7),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 99),
)
def test_random_networks_equal_autograd(widths: list[int], depths: list[int], frozen: int, way: str, seed: int) -> None:
    """Tasks leave a chain of layers at depths of their own: what is shared, and by whom, is drawn."""
    torch.manual_seed(seed)
    sizes = [4, *widths]
    chain = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
    stops = [min(depth, len(chain) - 1) for depth in depths]
    outs = nn.ModuleList([nn.Linear(sizes[stop + 1], 1) for stop in stops])
    model = nn.ModuleDict({"chain": chain, "outs": outs, "unused": nn.Linear(2, 2)})
    named = list(chain.parameters())
    if frozen < len(named) and len(named) > 2:
        named[frozen].requires_grad_(requires_grad=False)
    x = torch.randn(5, 4)

    def losses() -> dict[str, Tensor]:
        found, z = {}, x
        for place, layer in enumerate(chain):
            z = torch.tanh(layer(z))
            for k, stop in enumerate(stops):
                if stop == place:
                    found[f"t{k}"] = (outs[k](z) - k).square().mean()
        return dict(sorted(found.items()))

    kept = collecting.TOGETHER, factoring.gain
    collecting.TOGETHER, factoring.gain = (0 if seed % 2 else kept[0]), lambda *_: 1.0
    try:
        check(model, losses, way, tolerance=2e-5)
    finally:
        collecting.TOGETHER, factoring.gain = kept


@pytest.mark.parametrize("accumulation", ["reduce", "local"])
@pytest.mark.parametrize("name", ["mgda", "sum", "uw"])
@pytest.mark.usefixtures("path")
def test_micro_batches_add_up_to_the_whole_batch(name: str, accumulation: str) -> None:
    model = nn.ModuleDict({"trunk": trunk(), "heads": heads()})
    x, y = torch.randn(12, 6, generator=torch.Generator().manual_seed(4)), torch.ones(12, 2)

    def losses(part: slice, of: int) -> dict[str, Tensor]:
        z = model["trunk"](x[part])
        return {f"t{k}": (h(z) - k * y[part]).square().mean() / of for k, h in enumerate(model["heads"])}  # type: ignore[arg-type]

    whole = GradientEngine(model, name).step(losses(slice(0, 12), 1))
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    engine = GradientEngine(model, name, accumulation=accumulation, representation=model["trunk"])
    for _ in range(2):  # nothing is left over for the second step
        for start in (0, 4):
            engine.accumulate(losses(slice(start, start + 4), 3))
        engine.state = None
        info = engine.step(losses(slice(8, 12), 3))
        torch.testing.assert_close(info.losses, whole.losses, rtol=1e-6, atol=0)
        for n, p in model.named_parameters():
            torch.testing.assert_close(p.grad, expected[n], rtol=1e-4, atol=1e-6)
    with pytest.raises(EngineRefused, match="accumulate"):
        GradientEngine(model, "mgda", approximate="sketch").accumulate(losses(slice(0, 4), 3))
