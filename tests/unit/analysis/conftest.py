"""A simulated study in a real store, shared by the tests that read one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mtlfleet.launch.documents import lock_claims
from mtlfleet.plan.claims import Baseline, Claim
from mtlfleet.plan.tasks import METRICS
from mtlfleet.store import AttemptWriter, Ingester, Store, write_document
from mtlfleet_analysis.evidence import Evidence, Run
from mtlfleet_analysis.loading import Asked
from mtlfleet_analysis.simulation import Design, simulate

CLAIMS = (
    Claim(id="up", method="pcgrad", baseline=Baseline(best_of=("ls",)), margin=1.0),
    Claim(id="best", method="pcgrad", baseline=Baseline(best_of=("ls", "mean")), margin=1.0, family="two"),
)


def asked(evidence: Evidence) -> Asked:
    return Asked(
        name=evidence.study,
        title=evidence.title,
        sha256=evidence.sha256,
        datasets=evidence.datasets,
        architectures=evidence.architectures,
        methods=evidence.methods,
        seeds=evidence.seeds,
        claims=CLAIMS,
    )


def write(evidence: Evidence, root: Path, owed: frozenset[str] = frozenset()) -> None:
    """All of it, but for the results of the trials that are ``owed``."""
    study = evidence.study
    write_document(root, study, "studies", [{"title": evidence.title, "spec": {}, "spec_sha256": evidence.sha256}])
    defs = [vars(METRICS["error"])]
    columns = ("unit", "direction", "scale", "best", "description")
    write_document(root, study, "metric_defs", [{"metric": d["name"], **{c: d[c] for c in columns}} for d in defs])
    tasks = [
        {
            "dataset": t.dataset,
            "task": t.task,
            "kind": "custom",
            "outputs": 1,
            "primary_metric": t.primary,
            "chance": t.chance,
        }
        for t in evidence.tasks
    ]
    write_document(root, study, "task_defs", tasks)
    names = sorted({t.task for t in evidence.tasks})
    trials = [
        {
            "trial_id": r.trial, "phase": r.phase, "method": r.method, "method_use": r.method, "dataset": r.dataset,
            "architecture": r.architecture, "task": r.task, "tasks": names if r.task == "*" else [r.task],
            "seed": r.seed, "config_index": r.config_index, "label": r.label, "params": r.params, "steps": 10,
        }
        for r in evidence.runs
    ]  # fmt: skip
    write_document(root, study, "trials", trials)
    lock_claims(CLAIMS, study, evidence.sha256, root)
    for r in evidence.runs:
        if r.trial not in owed:
            attempt(r, study, root)
    publish(root)


def attempt(r: Run, study: str, root: Path) -> None:
    writer = AttemptWriter.claim(
        root, study, r.trial, restored_step=0, restored_checkpoint=None, world_size=1, facts={}
    )
    for (split, task, metric), value in sorted(r.values.items()):
        writer.metric(5, 0.5, split, task, metric, value + 1, final=False) if split == "val" else None
        writer.metric(10, 1.0, split, task, metric, value, final=True)
    writer.close(r.state, r.reason, 10, r.device_s, r.device_s)


def publish(root: Path) -> None:
    with Ingester(root) as ingester:
        ingester.run_once()
        ingester.publish()


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, Store, Asked]:
    """The evidence that went in, the store that holds it, and what its study asks."""
    design = Design(
        effects={"ls": 0.0, "mean": -1.0, "pcgrad": 3.0}, seeds=(0, 1, 2), fates={("mean", "waves", 1): "diverged"}
    )
    evidence = simulate(design, 0)
    root = tmp_path_factory.mktemp("store")
    write(evidence, root)
    return evidence, Store(root, evidence.study), asked(evidence)


@pytest.fixture
def growing(tmp_path: Path) -> tuple[Path, Callable[[], None]]:
    """A store whose study still owes the last two of its runs, and what brings them."""
    evidence = simulate(Design(effects={"ls": 0.0, "mean": -1.0, "pcgrad": 3.0}, seeds=(0, 1)), 0)
    owed = [r for r in evidence.phase("final") if r.method == "pcgrad" and r.dataset == "waves"]
    write(evidence, tmp_path / "store", frozenset(r.trial for r in owed))

    def grow() -> None:
        for r in owed:
            attempt(r, evidence.study, tmp_path / "store")
        publish(tmp_path / "store")

    return tmp_path / "store", grow
