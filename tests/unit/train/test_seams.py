"""What a later system plugs into, each used by one small file: losses after the weighting, optimizers by role, taps."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import short_trials

from mtlfleet import registry
from mtlfleet.plan.trial import Recipe
from mtlfleet.train import Site, TrialRun
from mtlfleet.train.optimizers import Optimizers

STRATEGY = '''
"""Features of the trunk, through an adapter, are drawn to a fixed point: a stand-in for a teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mtlfleet.strategies.base import Phase, Strategy, strategy


@strategy("drawn")
@dataclass(frozen=True, kw_only=True)
class Drawn(Strategy):
    """An adapter with an optimizer of its own; its loss is not weighted."""

    scale: float = 1.0
    name_of_loss: str = "loss/*"
    second: bool = False
    tap: str = "trunk"
    frozen: bool = False

    def wrap(self, model, tasks):
        model.adapter = nn.Linear(8, 8)
        next(model.trunk.parameters()).requires_grad_(not self.frozen)
        return model

    def extra(self, model, batch, output, ctx):
        assert torch.equal(output.features[f"tap/{self.tap}"], output.features["shared"])
        return {self.name_of_loss: self.scale * model.adapter(output.features[f"tap/{self.tap}"]).square().mean()}

    def phases(self, total_steps):
        own = {"aux": {"optimizer": "sgd", "lr": 0.5}}
        first = Phase(name="drawn", steps=total_steps, optimizers=own, extra=self.extra, taps=(self.tap,))
        if not self.second:
            return (first,)
        half = total_steps // 2
        begin = Phase(name="drawn", steps=half, optimizers=own, extra=self.extra, taps=(self.tap,))
        return begin, Phase(name="alone", steps=total_steps - half)
'''


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "drawn.py").write_text(STRATEGY)
    return Site(tmp_path, "study", ("./drawn.py",), tmp_path)


def begun(site: Site, method: dict[str, Any] | None = None, **params: Any) -> TrialRun:
    """A trial on the strategy, by plain SGD unless told otherwise."""
    recipe = {"optimizer": "sgd", "lr": 0.1, "steps": 8, "eval_every": 4, **params.pop("recipe", {})}
    wanted = short_trials.trial("linear", site=site, **recipe)
    specs = {
        "strategy": short_trials.spec("strategy", "drawn", site.catalogue, **params),
        "method": short_trials.spec("method", "linear", site.catalogue, **(method or {})),
    }
    return short_trials.start(site.root, replace(wanted, **specs), site)  # type: ignore[arg-type]


def moved(run: TrialRun) -> dict[str, torch.Tensor]:
    """What one step changes."""
    before = {n: p.detach().clone() for n, p in run.parts.model.named_parameters()}
    run._step()
    found = {n: p.detach() - before[n] for n, p in run.parts.model.named_parameters()}
    run.pause()
    return found


def test_a_loss_after_the_weighting_is_added_whatever_the_weights(site: Site, tmp_path: Path) -> None:
    """By the recipe's optimizer on the trunk, by the adapter's own there; weights move only the tasks' part."""

    def part(number: int, **more: Any) -> dict[str, torch.Tensor]:
        here = Site(tmp_path / str(number), site.study, site.plugins, site.base)
        return moved(begun(here, **more))

    light, heavy = ({"weights": (0.5, 0.5)}, {"weights": (0.01, 0.99)})
    added = []
    for number, weights in enumerate((light, heavy)):
        without = part(2 * number, method=weights, scale=0.0)
        with_it = part(2 * number + 1, method=weights, scale=3.0)
        assert not any(without[n].any() for n in without if n.startswith("adapter"))
        added.append({n: with_it[n] - without[n] for n in with_it})
    assert added[0]["adapter.weight"].any()
    trunk = [n for n in added[0] if n.startswith("trunk")]
    assert trunk and all(added[0][n].any() for n in trunk)
    for name, change in added[0].items():
        torch.testing.assert_close(change, added[1][name], rtol=1e-4, atol=1e-6)
        if name.startswith("heads"):
            assert not change.any()
    before = part(9, method=heavy, scale=3.0, name_of_loss="loss/task_0")
    plain = part(10, method=heavy, scale=0.0)
    ratio = (before["adapter.weight"] - plain["adapter.weight"]) / added[0]["adapter.weight"]
    assert ratio.min() > 0 and ratio.max() < 0.1, "joined before the weighting, it has its task's weight"


def test_the_adapter_has_an_optimizer_of_its_own(site: Site) -> None:
    run = begun(site, recipe={"optimizer": "adam", "lr": 0.01, "schedule": "cosine"})
    run._step()
    main, own = run.optimizers.each
    assert isinstance(main, torch.optim.Adam) and isinstance(own, torch.optim.SGD)
    adapter = {id(p) for n, p in run.parts.model.named_parameters() if n.startswith("adapter")}
    assert {id(p) for g in own.param_groups for p in g["params"]} == adapter
    run._step()
    assert own.param_groups[0]["lr"] == pytest.approx(50 * main.param_groups[0]["lr"])
    run.pause()


def test_a_number_that_is_not_finite_skips_the_step(site: Site) -> None:
    run = begun(site, scale=1e39)
    before = {n: p.detach().clone() for n, p in run.parts.model.named_parameters()}
    run._step()
    assert run.position.skips == 1
    assert all(torch.equal(before[n], p) for n, p in run.parts.model.named_parameters())
    run.pause()


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_phases_with_other_optimizers_resume_bit_for_bit(site: Site, tmp_path: Path, steps: int) -> None:
    """Before, at and after the border: Adam's moments begin anew with the second phase, not with the second attempt."""
    recipe = {"optimizer": "adam", "lr": 0.01}
    ends = []
    for number, stop in enumerate((None, steps)):
        here = Site(tmp_path / str(number), site.study, site.plugins, site.base)
        run = begun(here, second=True, recipe=recipe)
        if stop is not None:
            for _ in range(stop):
                run._step()
            run.pause()
            run = begun(here, second=True, recipe=recipe)
            assert run.position.step == stop
        while run.position.step < 8:
            run._step()
        ends.append({n: p.detach().clone() for n, p in run.parts.model.named_parameters()})
        run.pause()
    assert all(torch.equal(p, ends[1][n]) for n, p in ends[0].items())


def test_no_phase_wakes_what_the_model_froze_itself(site: Site) -> None:
    run = begun(site, frozen=True, second=True)
    before = {n: p.detach().clone() for n, p in run.parts.model.named_parameters()}
    still = next(n for n in before if n.startswith("trunk"))
    while run.position.step < 8:
        run._step()
    unchanged = {n for n, p in run.parts.model.named_parameters() if torch.equal(before[n], p)}
    assert unchanged == {still}
    run.pause()


def test_a_tap_on_nothing_is_refused(site: Site) -> None:
    run = begun(site, tap="trunkk")
    with pytest.raises(ValueError, match="no such submodule"):
        run._step()


def test_gates_are_not_decayed() -> None:
    tasks = registry.build("dataset", "synthetic_regression", dim=6).facts().tasks
    model = registry.build("architecture", "smtl", width=4).build(tasks, (6,))
    (optimizer,) = Optimizers(Recipe(lr=0.1, weight_decay=0.3, steps=1), model, 1).each
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    roles = model.roles()
    assert {decay[id(p)] for n, p in model.named_parameters() if roles[n].startswith("gate")} == {0.0}
    assert {decay[id(p)] for n, p in model.named_parameters() if not roles[n].startswith("gate")} == {0.3}
