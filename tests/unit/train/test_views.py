"""Methods that look at the representation, at two batches a step, or at the losses after it, in whole trials."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import short_trials as trials

from mtlfleet.architectures.base import Batch, Context, Output
from mtlfleet.errors import EngineRefused
from mtlfleet.plan.trial import Trial
from mtlfleet.train import Site, TrialRun
from mtlfleet.train import run as trainer

PLUGIN = Path(__file__).parents[2] / "distributed" / "view_methods.py"


def site(root: Path) -> Site:
    return Site(root, "study", (f"./{PLUGIN.name}",), PLUGIN.parent)


def started(root: Path, method: str, **recipe: Any) -> TrialRun:
    return trials.start(root, wanted(root, method, **recipe), site(root))


def wanted(root: Path, method: str, **recipe: Any) -> Trial:
    return trials.trial(method, site=site(root), **{"budget": "steps", **recipe})


def weights(run: TrialRun) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.parts.model.state_dict().items()}


@pytest.mark.parametrize("method", ["imtl_ub", "graddrop_z", "two_batches", "auto_lambda"])
def test_a_paused_trial_ends_where_an_undisturbed_one_does(method: str, tmp_path: Path) -> None:
    whole = started(tmp_path / "whole", method, steps=8, eval_every=4, keep="last")
    assert trials.finish(whole).state == "done"
    broken = started(tmp_path / "broken", method, steps=8, eval_every=4, keep="last")
    broken.advance(seconds=0.0)
    assert 0 < broken.position.step < 8
    broken.pause()
    resumed = started(tmp_path / "broken", method, steps=8, eval_every=4, keep="last")
    assert trials.finish(resumed).state == "done"
    expected, found = weights(whole), weights(resumed)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    packed, again = (run.engine.method.pack(run.engine.state) for run in (whole, resumed))
    assert packed is None or all(
        torch.equal(v, again[k]) if isinstance(v, torch.Tensor) else v == again[k] for k, v in packed.items()
    )


def test_the_same_batch_is_observed_with_the_same_dropout(tmp_path: Path) -> None:
    """Where the step moves nothing, the losses after it are the losses before it; and each batch is its own."""
    run = started(tmp_path, "two_batches", lr=1e-30, optimizer="sgd", steps=4, keep="last")
    assert run.parts.model.training
    trials.finish(run)
    assert run.engine.state.steps == 4
    assert not run.engine.state.fell.any()
    assert weights(run).keys()
    moved = started(tmp_path / "moved", "two_batches", lr=0.02, optimizer="sgd", steps=4, keep="last")
    trials.finish(moved)
    assert moved.engine.state.fell.all()


def test_the_authors_famo_looks_again_in_train_mode(tmp_path: Path) -> None:
    """Where nothing moves, another dropout still moves the logits; and running statistics count the second pass."""

    def count(model: Any, *_: Any) -> None:
        model.passes.add_(float(model.training))

    found = {}
    for name in ("famo", "famo@official"):
        run = started(tmp_path / name, name, lr=1e-30, optimizer="sgd", steps=3, keep="last")
        run.parts.model.register_buffer("passes", torch.zeros(()))
        run.parts.model.register_forward_hook(count)
        trials.finish(run)
        found[name] = (run.engine.state.value.abs().max().item(), run.parts.model.passes.item())
    assert found["famo"] == (0.0, 3.0)
    assert found["famo@official"][0] > 0.001
    assert found["famo@official"][1] == 6.0


def test_two_batches_a_step_are_the_next_two_of_the_feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    plain = trainer.forward

    def noted(part, *given):
        if torch.is_grad_enabled():
            seen.append(tuple(part.batch.index.tolist()))
        return plain(part, *given)

    monkeypatch.setattr(trainer, "forward", noted)
    run = started(tmp_path, "two_batches", steps=2, keep="last")
    trials.finish(run)
    assert seen == [tuple(run.feed.at(place).batch.index.tolist()) for place in range(4)]
    assert not set(seen[0]) & set(seen[1])


def test_the_trunk_follows_the_weights_found_at_the_representation(tmp_path: Path) -> None:
    run = started(tmp_path, "mgda_ub", steps=1, keep="last")
    model, batch = run.parts.model, run.feed.at(0).batch
    trainer.seed_torch(trainer.stream(run.trial.seed, "forward", 0, 0), run.comm.device)
    output: Output = model(batch, Context())
    z = output.features["shared"]
    losses = [run.parts.dataset.loss(t, output.predictions[t.name], batch) for t in run.parts.tasks]
    rows = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses]).double()
    g = rows @ rows.T
    share = float(((g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1])).clamp(0, 1))
    trunk = list(model.trunk.parameters())
    expected = torch.autograd.grad(share * losses[0] + (1 - share) * losses[1], trunk, retain_graph=True)
    head = torch.autograd.grad(losses[0], model.heads["task_0"].weight, retain_graph=True)[0]
    run.engine.step(dict(zip(("task_0", "task_1"), losses, strict=True)), features=z)
    for parameter, gradient in zip(trunk, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(model.heads["task_0"].weight.grad, head)


def test_a_model_with_features_per_task_is_refused(tmp_path: Path) -> None:
    run = started(tmp_path, "mgda_ub", steps=1)
    model = run.parts.model

    class Apart(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, batch: Batch, ctx: Context) -> Output:
            return replace(self.inner(batch, ctx), features={})

    run.parts = replace(run.parts, model=Apart())
    with pytest.raises(EngineRefused, match="one representation that all tasks share"):
        run.advance()


def test_per_task_settings_follow_the_data_sets_order(tmp_path: Path) -> None:
    """Twelve tasks: sorted by name, task_10 would come before task_2."""
    names = tuple(f"task_{k}" for k in range(12))
    given = tuple(float(k + 1) for k in range(12))
    cell = trials.trial("sum", steps=1, keep="last")
    cell = replace(
        cell,
        dataset=trials.spec("dataset", "synthetic_regression", tasks=12, train=90, val=30, test=30, dim=12),
        method=trials.spec("method", "linear", weights=given),
        tasks=names,
    )
    run = trials.start(tmp_path, cell)
    told: list[Any] = []
    step = run.engine.step
    run.engine.step = lambda *a, **k: told.append(step(*a, **k)) or told[-1]  # type: ignore[method-assign,assignment]
    trials.finish(run)
    assert told[0].tasks == names
    assert told[0].weights.tolist() == pytest.approx([12 * w / sum(given) for w in given])
