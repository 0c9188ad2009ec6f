"""Layers whose gradients are products of two factors: equal to the ordinary passes, chosen by a rule, told in words."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mtlfleet.engine import GradientEngine, cost, factored
from mtlfleet.engine.convolution import Convolution
from mtlfleet.engine.factored import KINDS
from mtlfleet.engine.layers import Recorder

Losses = Callable[[], dict[str, Tensor]]


def model_of(trunk: nn.Module, x: Tensor, tasks: int = 3) -> tuple[nn.Module, Losses]:
    """A trunk with linear heads on its flattened output, and its losses on ``x``."""
    width = trunk(x).detach().flatten(1).shape[1]
    model = nn.ModuleDict({"trunk": trunk, "heads": nn.ModuleList([nn.Linear(width, 2) for _ in range(tasks)])})

    def losses() -> dict[str, Tensor]:
        z = trunk(x).flatten(1)
        return {f"t{k:02d}": (head(z) - k).square().mean() for k, head in enumerate(model["heads"])}  # type: ignore[arg-type]

    return model, losses


def step(model: nn.Module, losses: Losses, backward: str) -> tuple[dict[str, Tensor], Any]:
    """One step's gradients and what the engine says of it."""
    info = GradientEngine(model, "mgda", backward=backward).step(losses())
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found, info


def equal(model: nn.Module, losses: Losses, backward: str = "factored", tolerance: float = 1e-6) -> str:
    """Assert that ``backward`` gives what sequential passes give; what it says of itself."""
    expected, plain = step(model, losses, "sequential")
    found, info = step(model, losses, backward)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(info.gram, plain.gram, rtol=1e-5, atol=1e-6 * float(plain.gram.diagonal().max()))
    # What two float32 sums of the same numbers differ by is relative to the largest gradient, not to a tiny one.
    scale = max(float(g.norm()) for g in expected.values())
    for name, right in expected.items():
        assert float((found[name] - right).norm()) < tolerance * scale, name
    return str(info.backward)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer that can be factored is."""
    monkeypatch.setattr(factored, "gain", lambda *_: 1.0)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """Two convolutions of one or two dimensions with drawn shapes, and an input that they fit."""
    axes = draw(st.integers(1, 2))
    kind: Any = nn.Conv1d if axes == 1 else nn.Conv2d
    torch.manual_seed(draw(st.integers(0, 99)))
    channels = [draw(st.integers(1, 3)) for _ in range(3)]
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(channels):
        kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
        stride = [draw(st.integers(1, 2)) for _ in range(axes)]
        padding: Any = [draw(st.integers(0, 2)) for _ in range(axes)]
        if stride == [1] * axes and draw(st.booleans()):
            padding = draw(st.sampled_from(["same", "valid"]))
        mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        dilation = [draw(st.integers(1, 2)) for _ in range(axes)]
        bias = draw(st.booleans())
        made = kind(inside, outside, kernel, stride, padding, dilation, bias=bias, padding_mode=mode)
        layers += [made, nn.Tanh()]
    size = [draw(st.integers(12, 13)) for _ in range(axes)]
    return nn.Sequential(*layers), torch.randn(draw(st.integers(1, 3)), channels[0], *size)


@settings(max_examples=20, deadline=None)
@given(drawn=convolutions())
def test_random_convolutions_equal_sequential_passes(drawn: tuple[nn.Module, Tensor]) -> None:
    kept, factored.gain = factored.gain, lambda *_: 1.0
    try:
        way = equal(*model_of(*drawn), tolerance=2e-6)
    finally:
        factored.gain = kept
    assert way == "factored, 2 of 5 layers"


@pytest.mark.usefixtures("everywhere")
def test_a_convolution_with_groups_is_taken_directly() -> None:
    trunk = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    way = equal(*model_of(trunk, torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))))
    assert way == "factored, 2 of 5 layers"
    assert Convolution.of("grouped", nn.Conv2d(4, 4, 3, groups=2)) is None


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_outputs_that_are_written_over_are_noticed(kind: str) -> None:
    """An in-place activation on an output that is a view takes the noted place of the output out of the graph."""
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))
    make = (lambda: nn.Linear(6, 6)) if kind == "linear" else (lambda: nn.Conv1d(3, 3, 3, padding=1))
    torch.manual_seed(0)
    equal(*model_of(nn.Sequential(make(), nn.ReLU(inplace=True), make(), nn.ReLU(inplace=True)), x))


@pytest.mark.usefixtures("everywhere")
def test_samples_without_a_batch_and_forward_passes_without_a_step() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(2, 5, 5)
    model, losses = model_of(conv, x)
    assert equal(model, losses).startswith("factored, 1 of")
    expected, _ = step(model, losses, "sequential")
    engine = GradientEngine(model, "mgda", backward="factored")
    for _ in range(3):
        losses()  # looked at, never stepped on
        assert engine.step(losses()).backward.startswith("factored, 1 of")
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)


def hears(model: nn.Module) -> list[str]:
    """Modules with a forward hook."""
    return [name for name, module in model.named_modules() if module._forward_hooks]


def test_the_rule_takes_late_convolutions_and_leaves_early_ones() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 128, 3, 2, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, 2, 1)
    )
    model, losses = model_of(trunk, torch.randn(4, 3, 16, 16), tasks=6)
    assert equal(model, losses, "auto") == "factored, 1 of 9 layers"
    engine = GradientEngine(model, "mgda", backward="auto")
    assert len(hears(model)) == 9
    for _ in range(2):
        engine.step(losses())
        assert hears(model) == ["trunk.4"]  # the others cost nothing from here on


@pytest.mark.parametrize(
    ("tasks", "rows", "world", "d_in", "d_out", "pays"),
    [
        (3, 32, 1, 1024, 1024, True),  # a wide layer, few samples
        (8, 128, 1, 1024, 1024, True),
        (8, 32, 1, 4608, 512, True),  # 3x3 from 512 to 512 channels at 2x2 positions, 8 samples
        (8, 128, 1, 1152, 128, True),
        (3, 512, 1, 576, 128, False),  # 3x3 from 64 to 128 channels at 4x4, 32 samples
        (40, 8192, 1, 27, 32, False),  # a first convolution
        (8, 256, 1, 128, 512, False),  # a transformer's inner layer
        (40, 64, 1, 101, 101, False),
        (8, 128, 8, 1024, 1024, False),  # the rows of eight ranks
    ],
)
def test_the_rule_agrees_with_measurements(
    tasks: int, rows: int, world: int, d_in: int, d_out: int, pays: bool
) -> None:
    assert (cost.gain(tasks, rows, world, d_in, d_out, 0) > 0) is pays
    assert cost.gain(tasks, rows, world, d_in, d_out, d_in) < cost.gain(tasks, rows, world, d_in, d_out, 0)


@given(tasks=st.integers(1, 60), parameters=st.integers(1, 10**7), numbers=st.integers(0, 10**5))
def test_batched_passes_stay_within_memory_and_are_even(tasks: int, parameters: int, numbers: int) -> None:
    chunk = cost.chunk(tasks, parameters, numbers)
    if not chunk:
        assert numbers in (0, *range(cost.SHORT + 1, 10**5 + 1)) or min(tasks, cost.TOGETHER // parameters) < 4
        return
    assert chunk * parameters <= cost.TOGETHER
    assert -(-tasks // chunk) == -(-tasks // min(tasks, cost.TOGETHER // parameters))  # no pass more than it takes


def mlp(width: int, tasks: int, *more: nn.Module) -> tuple[nn.Module, Losses]:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, width), nn.Tanh(), *more, nn.Linear(width, 5))
    return model_of(trunk, torch.randn(8, 6), tasks)


def test_small_models_with_several_tasks_are_batched() -> None:
    assert equal(*mlp(12, 5), "auto") == "batched, 5 tasks a pass"
    assert equal(*mlp(12, 3), "auto") == "sequential"


def test_methods_that_read_rows_are_batched_too_also_over_micro_batches() -> None:
    model, losses = mlp(12, 5)
    expected, _ = step_twice(model, losses, "sequential")
    found, way = step_twice(model, losses, "auto")
    assert way == "batched, 5 tasks a pass"
    assert hears(model) == []
    for name, right in expected.items():
        torch.testing.assert_close(found[name], right, rtol=1e-5, atol=1e-6)


def step_twice(model: nn.Module, losses: Losses, backward: str) -> tuple[dict[str, Tensor], str]:
    """The gradients of a second step of two equal micro-batches, of a method that reads rows."""
    engine, way = GradientEngine(model, "graddrop", backward=backward, seed=3), ""
    for _ in range(2):
        engine.accumulate(losses())
        way = engine.step(losses()).backward
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, way


class Outside(torch.autograd.Function):
    """The identity, whose backward leaves torch: no batching rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return torch.from_numpy(g.numpy().copy())


class Leaves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Outside.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def test_what_cannot_be_batched_is_not_and_says_so() -> None:
    assert equal(*mlp(12, 5, Leaves()), "auto") == "sequential, an operation cannot be batched"


def test_a_change_of_tasks_makes_all_layers_heard_again() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 400), nn.Tanh(), nn.Linear(400, 400), nn.Tanh(), nn.Linear(400, 5))
    model, losses = model_of(trunk, torch.randn(8, 6))
    engine = GradientEngine(model, "mgda", backward="auto")
    ways, heard = [], []
    for absent in (False, False, True, True, True, False, False):
        given_now = {task: loss for task, loss in losses().items() if not (absent and task == "t01")}
        ways.append(engine.step(given_now).backward)
        heard.append(len(hears(model)))
    assert ways == ["factored, 2 of 6 layers"] * 7  # what was noted is enough for the step of the change
    assert heard == [2, 2, 6, 2, 2, 6, 2]


def test_only_leaf_kinds_are_listened_to() -> None:
    class Special(nn.Linear):
        """Might compute anything."""

    model = nn.Sequential(nn.Linear(2, 2), Special(2, 2), nn.Embedding(3, 2), nn.LayerNorm(2), nn.Conv3d(1, 1, 1))
    assert [layer.name for layer in Recorder(model, KINDS).layers] == ["0"]
