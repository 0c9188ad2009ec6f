"""``task_gradients`` of methods that do not look at the Gram: autograd's products, and the same training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import short_trials as trials

from mtlfleet.store import open_store
from mtlfleet.train import TrialRun

RECIPES: dict[str, dict[str, Any]] = {"adatask": {"optimizer": "sgd"}, "moco": {"budget": "steps"}}


def trained(root: Path, method: str, **recipe: Any) -> TrialRun:
    wanted = trials.trial(method, steps=6, keep="last", **RECIPES.get(method, {}), **recipe)
    run = trials.start(root, wanted)
    trials.finish(run)
    return run


def by_autograd(root: Path, method: str, **recipe: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Train; of every step the task gradients [K, P] and the shared gradient as it was written [P], in float64."""
    wanted = trials.trial(method, steps=6, keep="last", **RECIPES.get(method, {}), **recipe)
    run, rows, written = trials.start(root, wanted), [], []
    step, model = run.engine.step, run.parts.model

    def spied(batches: Any, **given: Any) -> Any:
        named = dict(model.named_parameters())
        tasks = [
            dict(zip(named, torch.autograd.grad(batches[-1][task], list(named.values()), retain_graph=True,
                                                allow_unused=True), strict=True))
            for task in run.feed.tasks
        ]  # fmt: skip
        info = step(batches, **given)
        shared = run.engine.reach.shared_names
        rows.append(np.stack([torch.cat([t[n].reshape(-1) for n in shared]).double().numpy() for t in tasks]))
        written.append(torch.cat([named[n].grad.reshape(-1) for n in shared]).double().numpy())
        return info

    run.engine.step = spied  # type: ignore[method-assign]
    trials.finish(run)
    return rows, written


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        ("uw", {"geometry_every": 2}),
        ("graddrop", {"log_every": 2}),
        ("adatask", {"log_every": 2}),
        ("moco", {"log_every": 2}),
        ("db_mtl@libmtl", {"log_every": 2}),
    ],
)
def test_rows_of_logged_steps_are_autograds(method: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    """Rows that a method holds are told as often as steps are logged; others where ``geometry_every`` asks."""
    rows, written = by_autograd(tmp_path, method, **recipe)
    found = open_store(tmp_path).sql("from task_gradients where step % 2 = 0 order by step").to_pylist()
    assert [row["step"] for row in found] == [2, 4, 6]
    for row in found:
        jacobian, d = rows[row["step"] - 1], written[row["step"] - 1]
        norms = np.linalg.norm(jacobian, axis=1)
        cosine = jacobian[0] @ jacobian[1] / norms.prod()
        assert row["norms"] == pytest.approx(norms, rel=1e-4)
        assert row["cos_upper"] == pytest.approx([cosine], rel=1e-3, abs=1e-6)
        assert row["conflict_fraction"] == float(cosine < 0)
        assert row["descents"] == pytest.approx(jacobian @ d, rel=1e-3, abs=1e-6)
        assert row["norm_to_sum"] == pytest.approx(np.linalg.norm(d) / np.linalg.norm(jacobian.sum(0)), rel=1e-4)
        assert bool(row["weights"]) == (method == "uw")


@pytest.mark.parametrize("method", ["uw", "rlw", "famo", "graddrop_z", "graddrop", "pcgrad"])
def test_observed_steps_train_the_same_bits(method: str, tmp_path: Path) -> None:
    """With dropout, draws of the method's own and a second forward pass."""
    plain = trained(tmp_path / "plain", method)
    drawn = torch.random.get_rng_state()
    watched = trained(tmp_path / "watched", method, geometry_every=2)
    one, other = plain.parts.model.state_dict(), watched.parts.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(
        (p.grad is None) == (q.grad is None) and (p.grad is None or torch.equal(p.grad, q.grad))
        for p, q in zip(plain.parts.model.parameters(), watched.parts.model.parameters(), strict=True)
    )
    assert torch.equal(drawn, torch.random.get_rng_state())  # and nothing was drawn for it
    found = open_store(tmp_path / "watched").sql("select step, descents from task_gradients order by step").to_pylist()
    assert [row["step"] for row in found] == [2, 3, 4, 6]
    assert all(row["descents"] is not None for row in found if row["step"] % 2 == 0)
