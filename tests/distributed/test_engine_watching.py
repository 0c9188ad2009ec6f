"""A step that is watched writes what one that is not writes, bit for bit, and tells autograd's products."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import cases
import large
from crew import crew

from mtlfleet.engine import GradientEngine
from mtlfleet.errors import EngineRefused

METHODS = ("uw", "rlw", "mgda_ub", "graddrop")


def both(rank: int, world: int, bucketed: bool) -> dict[str, Any]:
    """Steps without and with an eye on them; on a network that travels whole, or cut into buckets."""
    if bucketed:
        large.as_large()
    found: dict[str, Any] = {}
    for method in METHODS:
        options: dict[str, Any] = {"representation": "trunk", "single": True} if method == "mgda_ub" else {}
        found[method] = [large.run(rank, world, method, 6, watch=watch, **options) for watch in (None, "passes")]
    return found


def products(step: int, gradients: dict[str, torch.Tensor], model: cases.Net) -> tuple[torch.Tensor, torch.Tensor]:
    """(Gram, descents) of a step on one rank from autograd, in float64."""
    shared = {n: p for n, p in model.named_parameters() if n.startswith(("trunk", "pair")) and n in gradients}
    losses, _ = large.local(model, step, 0, 1)
    rows = []
    for task in sorted(losses):
        taken = torch.autograd.grad(losses[task], list(shared.values()), retain_graph=True, allow_unused=True)
        full = [torch.zeros_like(p) if g is None else g for p, g in zip(shared.values(), taken, strict=True)]
        rows.append(torch.cat([g.reshape(-1) for g in full]).double())
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T, jacobian @ torch.cat([gradients[n].reshape(-1) for n in shared]).double()


@pytest.mark.parametrize("bucketed", [False, True])
def test_watching_changes_nothing_and_tells_the_truth_on_two_ranks(bucketed: bool) -> None:
    two = crew(2, both, bucketed)
    for method in METHODS:
        for rank in two:
            (plain, untold), (watched, told) = rank[method]
            for one, other in zip(plain, watched, strict=True):
                assert one.keys() == other.keys()
                assert all(torch.equal(one[name], other[name]) for name in one), method
            assert all(info.descents is None and info.gram is None for info in untold)
            assert all(torch.equal(a.descents, b.descents) for a, b in zip(told, two[0][method][1][1], strict=True))
        gram, descents = products(0, two[0][method][1][0][0], cases.net(single=method == "mgda_ub"))
        info = two[0][method][1][1][0]
        torch.testing.assert_close(info.gram, gram, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(info.descents, descents, rtol=1e-5, atol=1e-7)


def test_what_cannot_be_watched_is_refused() -> None:
    model = cases.net()
    engine = GradientEngine(model, "uw")
    engine.accumulate(large.local(model, 0, 0, 1, (0, 2))[0])
    with pytest.raises(EngineRefused, match="one whole batch"):
        engine.step(large.local(model, 0, 0, 1, (1, 2))[0], watch="passes")
    assert engine.step(large.local(model, 0, 0, 1)[0], watch="passes").descents is not None  # the engine goes on
