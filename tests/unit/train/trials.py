"""Short trials to train in a test's own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtlfleet import registry
from mtlfleet.plan.trial import Recipe, Spec, Trial
from mtlfleet.train import Communicator, Progress, Site, TrialRun


def spec(kind: str, use: str, catalogue: registry.Catalogue | None = None, **given: Any) -> Spec:
    return Spec(use, use, (catalogue or registry.Catalogue()).parameters(kind, use, given))


def trial(method: str = "pcgrad", phase: str = "final", site: Site | None = None, **recipe: Any) -> Trial:
    catalogue = site.catalogue if site else None
    train = {"lr": 0.02, "global_batch": 32, "steps": 24, "eval_every": 6, "log_every": 3, **recipe}
    return Trial(
        method=spec("method", method, catalogue),
        dataset=spec("dataset", "synthetic_regression", train=90, val=30, test=30, dim=6),
        architecture=spec("architecture", "hps", width=8, dropout=0.2),
        strategy=spec("strategy", "joint"),
        recipe=Recipe(**train),
        tasks=("task_0", "task_1"),
        seed=3,
        phase=phase,  # type: ignore[arg-type]
    )


def start(root: Path, wanted: Trial, site: Site | None = None) -> TrialRun:
    run = TrialRun(wanted, site or Site(root, "study"), Communicator())
    run.begin()
    return run


def finish(run: TrialRun) -> Progress:
    while not (progress := run.advance()).finished:
        pass
    return progress
