"""``backward="measured"``: every step on the way is exact, the fastest way is kept, and ranks choose alike."""

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
from crew import crew, crew_or_alone

from mtlfleet.engine import GradientEngine, cost, factored, measured

KINDS = ("heads first", "batched", "factored")
STEPS = 3 * measured.ROUNDS + 2


class Wide(nn.Module):
    """Five tasks: enough for a batched pass to be a candidate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(5, 1) for _ in range(5)])

    def losses(self, step: int, rank: int) -> tuple[dict[str, Tensor], Tensor]:
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * step + rank))
        z = self.trunk(x)
        return {f"t{k}": (head(z) - k).square().mean() for k, head in enumerate(self.heads)}, z


def trained(backward: str, rank: int, wins: str = "") -> tuple[list[str], dict[str, Tensor]]:
    """What each step says of itself, and the parameters after all of them. ``wins``: by this rank's clock."""
    model = Wide()
    engine = GradientEngine(model, "mgda", backward=backward)
    ticks = itertools.count(1)
    said: list[str] = []

    def clock(contest: measured.Contest) -> float:
        """Steps take three seconds, those of ``wins`` one; nothing else moves the hands."""
        turn = next(ticks)
        contest_kind = KINDS[min((turn - 1) // 2 // measured.ROUNDS, 2)]
        return 0.0 if turn % 2 else (1.0 if contest_kind == wins else 3.0)

    if wins:
        measured.Contest._clock = clock  # type: ignore[method-assign]
    for step in range(STEPS):
        losses, z = model.losses(step, rank)
        said.append(engine.step(losses, features=z).backward)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.05 * p.grad  # type: ignore[operator]
        model.zero_grad(set_to_none=True)
    return said, {n: p.detach().clone() for n, p in model.named_parameters()}


def _all(rank: int, world: int) -> dict[str, Any]:
    factored.gain = lambda *_: 1.0  # type: ignore[assignment]  # every layer that can be is factored
    cost.outweighs = lambda *_: False  # type: ignore[assignment]
    real = measured.Contest._clock
    try:
        found: dict[str, Any] = {wins: trained("measured", rank, wins) for wins in KINDS}
        # Rank 0 finds batched passes slow, the last one sequential ones: what all of them took together counts.
        found["disagree"] = trained("measured", rank, KINDS[rank])
    finally:
        measured.Contest._clock = real  # type: ignore[method-assign]
    return found | {"sequential": trained("sequential", rank), "real": trained("measured", rank)}


@pytest.mark.parametrize("world", [1, 2])
def test_the_fastest_way_is_kept_and_every_step_on_the_way_is_exact(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "outweighs", cost.outweighs)
    ranks = crew_or_alone(world, monkeypatch, _all)
    expected = ranks[0]["sequential"][1]
    for wins, (said, values) in ranks[0].items():
        assert cases.relative(values, expected) < 1e-6, wins
        for other in ranks:
            assert other[wins][0] == said, wins
            assert all(torch.equal(other[wins][1][n], v) for n, v in values.items()), wins
        if wins == "sequential":
            continue
        for place, kind in enumerate(KINDS):
            turn = said[place * measured.ROUNDS : (place + 1) * measured.ROUNDS]
            assert all(s.startswith(kind) and s.endswith("being measured") for s in turn[:-1]), (wins, turn)
        assert all(s.endswith("measured fastest") for s in said[-2:]), said
        if wins in KINDS:
            assert all(s.startswith(wins) for s in said[-2:]), (wins, said)
    assert len(set(ranks[0]["disagree"][0][-2:])) == 1


def _micro(rank: int, world: int) -> dict[str, tuple[str, dict[str, Tensor]]]:
    found = {}
    for backward in ("sequential", "auto", "measured"):
        model = Wide()
        engine = GradientEngine(model, "mgda", backward=backward)
        for step in (0, 2):
            losses, z = model.losses(step, rank)
            engine.step(losses, features=z)  # decided without micro-batches at first
            first, _ = model.losses(step, rank)
            engine.accumulate({t: v for t, v in first.items() if t != "t3"})
            info = engine.step(model.losses(step + 1, rank)[0])
        found[backward] = info.backward, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found


def test_micro_batches_under_auto_and_measured_are_one_pass_per_task() -> None:
    ranks = crew(2, _micro)
    said, expected = ranks[0]["sequential"]
    for backward in ("auto", "measured"):
        assert ranks[0][backward][0] == said == "sequential"
        assert all(torch.equal(ranks[0][backward][1][n], g) for n, g in expected.items()), backward
