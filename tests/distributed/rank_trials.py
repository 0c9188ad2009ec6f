"""Whole trials on real ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mtlfleet import registry
from mtlfleet.plan.trial import Recipe, Spec, Trial
from mtlfleet.train import Communicator, Site, TrialRun

PARAMS: dict[str, dict[str, Any]] = {
    "linear": {"weights": (0.2, 0.5, 0.3)},
    "adatask": {"dominance_beta": 0.9},
    "gradvac": {"groups": "tensor"},
}
PLUGINS = ("./view_methods.py", "./extra_losses.py")
HERE = Path(__file__).parent


def site(root: str) -> Site:
    return Site(Path(root), "ranks", PLUGINS, HERE)


def spec(kind: str, use: str, **given: Any) -> Spec:
    return Spec(use, use, registry.Catalogue(PLUGINS, HERE).parameters(kind, use, given))


def trial(method: str, world: int = 1, steps: int = 6, **recipe: Any) -> Trial:
    """A short trial with an uneven last batch: 90 samples, batches of 32."""
    params = PARAMS.get(method, {})
    data = spec("dataset", "synthetic_regression", tasks=3, conflict=0.7, train=90, val=30, test=30, dim=6)
    tasks = ("task_0",) if method == "stl" else ("task_0", "task_1", "task_2")
    train = {
        "optimizer": "sgd",
        "lr": 0.05,
        "global_batch": 32,
        "steps": steps,
        "eval_every": 3,
        "log_every": 2,
        "budget": "steps",
        **recipe,
    }
    return Trial(
        method=spec("method", method, **params),
        dataset=data,
        architecture=spec("architecture", "hps", width=8),
        strategy=spec("strategy", "joint"),
        recipe=Recipe(**train),
        tasks=tasks,
        seed=11,
        phase="final",
        world=world,
    )


def with_extras(rank: int, world: int, root: str, scales: tuple[float, float]) -> dict[str, torch.Tensor]:
    """The last weights of three steps with an extra loss in a task's and one after the weighting, on batches of 31:
    ranks have unequal parts."""
    comm = Communicator(rank, world, dist.group.WORLD if world > 1 else None)
    drawn = spec("strategy", "extra_losses", before=scales[0], after=scales[1])
    run = TrialRun(replace(trial("linear", world, global_batch=31), strategy=drawn), site(root), comm)
    run.begin()
    for _ in range(3):
        run._step()
    run.pause()
    return {n: t.clone() for n, t in run.parts.model.state_dict().items()}


def train(rank: int, world: int, methods: list[str], root: str) -> dict[str, Any]:
    """Each method's trial to its end on this rank: state, score, the weights before the chosen checkpoint is loaded,
    and those at the start."""
    comm = Communicator(rank, world, dist.group.WORLD if world > 1 else None)
    found: dict[str, Any] = {}
    for method in methods:
        run = TrialRun(trial(method, world), site(root), comm)
        progress = run.begin()
        start = {n: t.clone() for n, t in run.parts.model.state_dict().items()}
        weights: dict[str, torch.Tensor] = {}
        finish = run._finish

        def keep(weights: dict[str, torch.Tensor] = weights, run: TrialRun = run, finish: Any = finish) -> None:
            weights.update({n: t.clone() for n, t in run.parts.model.state_dict().items()})
            finish()

        run._finish = keep  # type: ignore[method-assign]
        while not progress.finished:
            progress = run.advance()
        found[method] = (progress.state, progress.score, weights, start)
    return found


def interrupted(
    rank: int, world: int, methods: list[str], root: str, pause_at: int
) -> dict[str, dict[str, torch.Tensor]]:
    """The last weights of each method's trial of six steps; with ``pause_at``, left there and taken up by a fresh
    object."""
    comm = Communicator(rank, world, dist.group.WORLD if world > 1 else None)
    return {method: _interrupted(comm, world, method, root, pause_at) for method in methods}


def _interrupted(comm: Communicator, world: int, method: str, root: str, pause_at: int) -> dict[str, torch.Tensor]:
    cell = trial(method, world, checkpoint_every=3, keep="last")
    run = TrialRun(cell, site(root), comm)
    run.begin()
    if pause_at:
        run.advance(seconds=0.0)
        assert run.position.step == pause_at
        run.pause()
        run = TrialRun(cell, site(root), comm)
        run.begin()
        assert run.position.step == pause_at
    while not run.advance().finished:
        pass
    return {name: tensor.clone() for name, tensor in run.parts.model.state_dict().items()}
