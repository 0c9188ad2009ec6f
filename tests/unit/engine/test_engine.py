"""The engine in one process: shared parameters found, gradients equal autograd's on networks drawn at random."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mtlfleet import methods
from mtlfleet.engine import GradientEngine
from mtlfleet.engine.layout import Layout
from mtlfleet.engine.products import block_gram


class Drawn(nn.Module):
    """Blocks in a row; task t reads the blocks in ``reads[t]``, then its own head. Some blocks are frozen or unused."""

    def __init__(self, blocks: int, reads: list[frozenset[int]], frozen: frozenset[int], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(blocks))
        self.heads = nn.ModuleList(nn.Linear(3, 2) for _ in reads)
        self.reads = reads
        for block in frozen:
            self.blocks[block].requires_grad_(False)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for t, read in enumerate(self.reads):
            z = x
            for block in sorted(read):
                z = torch.tanh(self.blocks[block](z))
            found[f"t{t}"] = self.heads[t](z).square().mean() * (t + 1)
        return found


@st.composite
def networks(draw: st.DrawFn) -> Drawn:
    blocks, tasks = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    reads = [draw(st.frozensets(st.integers(0, blocks - 1))) | {0} for _ in range(tasks)]
    frozen = draw(st.frozensets(st.integers(1, blocks - 1), max_size=2)) if blocks > 1 else frozenset()
    return Drawn(blocks, reads, frozen, draw(st.integers(0, 99)))


@given(network=networks(), name=st.sampled_from(["sum", "uw", "mgda", "pcgrad", "upgrad"]))
def test_gradients_equal_autograds(network: Drawn, name: str) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    engine = GradientEngine(network, methods.build(name))
    info = engine.step(network.losses(x))
    got = {n: p.grad for n, p in network.named_parameters()}
    losses = network.losses(x)
    assert info.weights is not None
    for n, p in network.named_parameters():
        grads = [
            torch.autograd.grad(loss, p, retain_graph=True, allow_unused=True)[0] if p.requires_grad else None
            for loss in losses.values()
        ]
        reaching = [k for k, g in enumerate(grads) if g is not None]
        if not reaching:
            assert got[n] is None, n
            continue
        weighted = len(reaching) > 1 or engine.method.heads == "weighted"
        expected = sum(grads[k] * (float(info.weights[k]) if weighted else 1.0) for k in reaching)
        assert torch.allclose(got[n], expected, rtol=1e-5, atol=1e-7), n
        assert (n in engine.reach.shared_names) == (len(reaching) > 1)


def test_one_task_is_trained_whole() -> None:
    network = Drawn(2, [frozenset({0, 1})], frozenset(), 0)
    engine = GradientEngine(network, "stl")
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    engine.step(network.losses(x))
    got = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    network.losses(x)["t0"].backward()
    for n, p in network.named_parameters():
        assert torch.allclose(got[n], p.grad), n


def test_a_parameter_that_starts_to_train_is_noticed() -> None:
    network = Drawn(2, [frozenset({0, 1}), frozenset({0, 1})], frozenset({1}), 0)
    engine = GradientEngine(network, "mgda")
    x = torch.ones(4, 3)
    engine.step(network.losses(x))
    assert network.blocks[1].weight.grad is None
    network.blocks[1].requires_grad_(True)
    engine.step(network.losses(x))
    assert network.blocks[1].weight.grad is not None


def test_state_and_steps_survive_a_checkpoint() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))

    def fresh() -> tuple[Drawn, GradientEngine]:
        network = Drawn(2, [frozenset({0}), frozenset({0, 1})], frozenset(), 4)
        return network, GradientEngine(network, "uw", seed=5)

    whole, engine = fresh()
    kept = [engine.step(whole.losses(x * (i + 1))).weights for i in range(4)]
    part, first = fresh()
    for i in range(2):
        first.step(part.losses(x * (i + 1)))
    saved = first.state_dict()
    resumed, second = fresh()
    second.load_state_dict(saved)
    again = [second.step(resumed.losses(x * (i + 1))).weights for i in (2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(kept[2:], again, strict=True))


def test_mistakes_are_named() -> None:
    network = Drawn(1, [frozenset({0}), frozenset({0})], frozenset(), 0)
    losses = network.losses(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"must be a scalar; found shape \(2,\)"):
        GradientEngine(network, "sum").step({"t0": torch.ones(2, requires_grad=True)})
    engine = GradientEngine(network, "sum")
    engine.step(losses)
    with pytest.raises(ValueError, match="appear after the first step; known: t0, t1"):
        engine.step({**network.losses(torch.ones(2, 3)), "t9": losses["t0"]})
    with pytest.raises(ValueError, match="exchange is one of"):
        GradientEngine(network, "sum", exchange="magic")


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5), world=st.integers(1, 5))
def test_a_layout_loses_nothing(sizes: list[int], world: int) -> None:
    parameters = [nn.Parameter(torch.randn(n)) for n in sizes]
    layout = Layout.of(parameters, world)
    assert layout.padded % world == 0
    assert layout.padded - layout.size < world
    gradients = [torch.randn(n) for n in sizes]
    layout.write(layout.pack(gradients, layout.empty()))
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, gradients, strict=True))


def test_the_gram_is_summed_in_float64() -> None:
    rows = torch.randn(3, 200_003, generator=torch.Generator().manual_seed(0)) + 10.0
    exact = rows.double() @ rows.double().T
    assert float((block_gram(rows) - exact).abs().max() / exact.max()) < 1e-12
    assert float(((rows @ rows.T).double() - exact).abs().max() / exact.max()) > 1e-9
