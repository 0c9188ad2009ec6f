"""Bilevel weights against the definition written out anew; samples that are counted; trials that stop early."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import short_trials as trials

from mtlfleet.architectures.base import Context
from mtlfleet.plan.streams import stream
from mtlfleet.plan.trial import Recipe, Trial
from mtlfleet.store import open_store
from mtlfleet.train import TrialRun


def wanted(method: str = "auto_lambda", params: dict[str, Any] | None = None, **recipe: Any) -> Trial:
    plain = trials.trial(method, **{"steps": 3, "keep": "last", "budget": "steps", "log_every": 1, **recipe})
    return replace(
        plain,
        method=trials.spec("method", method, **(params or {})),
        architecture=trials.spec("architecture", "hps", width=8),
    )


def losses(run: TrialRun, model: torch.nn.Module, batch: Any) -> list[torch.Tensor]:
    output = model(batch, Context())
    return [run.parts.dataset.loss(t, output.predictions[t.name], batch) for t in run.parts.tasks]


@pytest.mark.parametrize("source", ["train_split", "val"])
def test_weights_are_those_of_the_definition(tmp_path: Path, source: str) -> None:
    """Three steps of SGD with momentum and decay, on copies of the model, with torch's own Adam on the weights."""
    lr, momentum, decay, rate = 0.05, 0.9, 1e-2, 0.01
    recipe = {"optimizer": "sgd", "lr": lr, "momentum": momentum, "weight_decay": decay}
    given = {"lr_lambda": rate, "val_source": source, "primary": (1,)}
    run = trials.start(tmp_path, wanted(params=given, **recipe))
    model = copy.deepcopy(run.parts.model)
    weights = torch.full((2,), 0.1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=rate)
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    samples = run.parts.splits[next(s for s in run.parts.splits if s.value == ("val" if source == "val" else "train"))]
    outer = replace(run.feed, samples=samples, seed=stream(run.trial.seed, "outer"))
    for step in range(3):
        inner, other = run.feed.at(step).batch, outer.at(step).batch
        virtual = copy.deepcopy(model)
        total = sum(w * loss for w, loss in zip(weights.tolist(), losses(run, virtual, inner), strict=True))
        slopes = torch.autograd.grad(total, list(virtual.parameters()))
        with torch.no_grad():
            for ours, p, g in zip(model.parameters(), virtual.parameters(), slopes, strict=True):
                held = sgd.state[ours].get("momentum_buffer", torch.zeros_like(p)) if sgd.state[ours] else 0.0
                p -= lr * (momentum * held + g + decay * p)
        v = torch.autograd.grad(losses(run, virtual, other)[1], list(virtual.parameters()), allow_unused=True)
        v = [torch.zeros_like(p) if g is None else g for g, p in zip(v, virtual.parameters(), strict=True)]
        eps = 0.01 / torch.cat([g.flatten() for g in v]).norm()
        sides = []
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                for p, g in zip(moved.parameters(), v, strict=True):
                    p += sign * eps * g
            sides.append(torch.stack(losses(run, moved, inner)).detach().double())
        weights.grad = -lr * (sides[0] - sides[1]) / (2 * eps)
        adam.step()
        sgd.zero_grad()
        sum(w * loss for w, loss in zip(weights.tolist(), losses(run, model, inner), strict=True)).backward()
        sgd.step()
    trials.finish(run)
    assert run.engine.state.value.tolist() == pytest.approx(weights.tolist(), abs=1e-6)
    assert run.engine.state.value.tolist() != [0.1, 0.1]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(run.parts.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_looking_ahead_leaves_the_model_alone(tmp_path: Path) -> None:
    """With a rate of nothing for the weights, a trial is that of the same static weights, bit for bit."""
    tiny = trials.start(tmp_path, wanted(params={"lr_lambda": 1e-300, "start": 1.0}))
    trials.finish(tiny)
    plain = trials.start(tmp_path, wanted("sum"))
    trials.finish(plain)
    assert tiny.engine.state.count == 3
    for name, tensor in plain.parts.model.state_dict().items():
        assert torch.equal(tiny.parts.model.state_dict()[name], tensor)


def test_a_step_that_is_skipped_takes_the_look_ahead_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trials.start(tmp_path, wanted(steps=2))
    step = run.engine.step
    poisoned = {"once": True}

    def poison(given: Any, **more: Any) -> Any:
        if poisoned.pop("once", False):
            given = [{task: loss * float("nan") for task, loss in each.items()} for each in given]
        return step(given, **more)

    monkeypatch.setattr(run.engine, "step", poison)
    run._step()
    assert run.position.skips == 1
    assert run.engine.state.value.tolist() == [0.1, 0.1]
    assert run.engine.state.count == 0
    run._step()
    assert run.engine.state.count == 1


def rows(root: Path, query: str) -> list[dict[str, Any]]:
    return open_store(root).sql(query).to_pylist()


@pytest.mark.parametrize(
    ("method", "params", "steps"),
    [("sum", {}, 12), ("modo", {}, 4), ("modo", {"batches": 2}, 6), ("auto_lambda", {}, 6), ("ius", {}, 12)],
)
def test_a_budget_of_samples_is_the_same_for_every_method(
    tmp_path: Path, method: str, params: dict[str, Any], steps: int
) -> None:
    cell = wanted(method, params, steps=12, eval_every=6, budget="samples")
    progress = trials.finish(trials.start(tmp_path, cell))
    assert progress.step == progress.total_steps == steps
    drawn = rows(tmp_path, "select step, value, final from metrics where metric = 'samples' order by final, step")
    assert [(r["step"], r["final"]) for r in drawn] == [(steps // 2, False), (steps, False), (steps, True)]
    # 90 samples in batches of 32: an epoch is 32 + 32 + 26, and every method has drawn four epochs' worth of batches
    assert drawn[-1]["value"] == 360
    entry = trials.registry.find("method", method)
    assert cell.recipe.drawing(entry.batches(cell.method.params)).total_steps(90) == steps


def test_a_budget_of_steps_is_told_apart_by_the_samples(tmp_path: Path) -> None:
    progress = trials.finish(trials.start(tmp_path, wanted("modo", steps=12, budget="steps")))
    assert progress.step == 12
    assert rows(tmp_path, "select max(value) v from metrics where metric = 'samples'")[0]["v"] == 3 * 360


def test_proportions_of_a_recipe() -> None:
    recipe = Recipe(steps=150, eval_every=50, warmup_steps=10, checkpoint_every=7)
    third = recipe.drawing(3)
    assert (third.steps, third.eval_every, third.warmup_steps, third.checkpoint_every) == (50, 17, 4, 7)
    assert recipe.drawing(1) == recipe
    for epochs in (1, 2, 3, 7):
        whole = Recipe(epochs=epochs, global_batch=32)
        for drawn in (2, 3):
            batches, steps = whole.total_steps(90), whole.drawing(drawn).total_steps(90)
            assert batches <= steps * drawn < batches + drawn


def test_conventions_are_recorded_as_they_were(tmp_path: Path) -> None:
    import json

    cards = {}
    for method in ("auto_lambda", "nash_mtl@official", "famo@official", "db_mtl@libmtl"):
        trials.finish(trials.start(tmp_path / method, wanted(method, steps=2)))
        (found,) = rows(tmp_path / method, "select step, message from events where kind = 'run_card'")
        cards[method] = json.loads(found["message"])
        assert found["step"] == 1
    auto, nash = cards["auto_lambda"], cards["nash_mtl@official"]
    assert auto["heads"] == nash["heads"] == "weighted"
    assert auto["private"] == {"state": ["weights"], "lr_lambda": 1e-4}
    assert auto["state"] == ["count", "first", "second", "value"]
    assert (auto["outer_split"], auto["samples"], auto["forward_passes"]) == ("train_split", 64, 5)
    assert (nash["outer_split"], nash["samples"], nash["forward_passes"]) == (None, 32, 1)
    assert cards["famo@official"]["shared_norm"] == 1.0
    assert cards["famo@official"]["weight_sum"] == "one"
    assert cards["db_mtl@libmtl"]["weight_sum"] == "none"
    assert cards["db_mtl@libmtl"]["shards"] == ["average"]
    run = trials.start(tmp_path / "sizes", wanted("sum"))
    trunk = sum(p.numel() for p in run.parts.model.trunk.parameters())
    heads = sum(p.numel() for p in run.parts.model.heads.parameters())
    assert (nash["shared_parameters"], nash["own_parameters"]) == (trunk, heads)


def test_patience_ends_a_trial_and_the_best_checkpoint_is_what_counts(tmp_path: Path) -> None:
    """Memorising thirty noisy samples: validation turns, and training would go on."""
    recipe = {"steps": 600, "eval_every": 5, "lr": 0.05, "keep": "best", "log_every": 100}
    patient = trials.start(tmp_path / "patient", wanted("sum", patience=4, **recipe))
    progress = trials.finish(patient)
    assert progress.state == "done"
    assert progress.step < 600
    curve = rows(
        tmp_path / "patient",
        "select step, avg(value) v from metrics where split = 'val' and metric = 'rmse' and not final group by step",
    )
    best = min(curve, key=lambda row: (row["v"], row["step"]))["step"]
    assert progress.step == best + 4 * 5
    chosen = rows(tmp_path / "patient", "select value from metrics where metric = 'selected_step'")
    assert [row["value"] for row in chosen] == [best]


def test_patience_is_kept_over_a_pause(tmp_path: Path) -> None:
    recipe = {"steps": 600, "eval_every": 5, "lr": 0.05, "keep": "best", "patience": 4, "checkpoint_every": 10}
    straight = trials.finish(trials.start(tmp_path / "straight", wanted("sum", **recipe)))
    run = trials.start(tmp_path / "paused", wanted("sum", **recipe))
    while run.advance(seconds=0.0).step < straight.step - 10:
        pass
    run.pause()
    again = trials.start(tmp_path / "paused", wanted("sum", **recipe))
    assert again.position.step > 0
    assert trials.finish(again).step == straight.step
