"""What the driver writes down about a study: the plan, the definitions, the registrations of its claims."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import mtlfleet
from mtlfleet.plan import Study, Trial
from mtlfleet.plan.place import Root
from mtlfleet.plan.tasks import METRICS
from mtlfleet.store import claim_locks, register_claim, trial_states, write_document


def write_definitions(study: Study, root: Root) -> None:
    """The study, its tasks and its metrics, as SQL tables."""
    row = {
        "title": study.title,
        "spec": study.spec,
        "spec_sha256": study.sha256,
        "mtlfleet_version": mtlfleet.__version__,
    }
    write_document(root, study.name, "studies", [row])
    tasks = [
        {
            "dataset": name,
            "task": task.name,
            "kind": task.kind,
            "outputs": task.outputs,
            "primary_metric": task.primary.name,
            "chance": task.chance,
        }
        for name, facts in study.facts.items()
        for task in facts.tasks
    ]
    write_document(root, study.name, "task_defs", tasks)
    used = {m for facts in study.facts.values() for task in facts.tasks for m in task.metrics} | {
        "loss",
        "samples",
        "selected_step",
    }
    metrics = [
        {
            "metric": m.name,
            "unit": m.unit,
            "direction": m.direction,
            "scale": m.scale,
            "best": m.best,
            "description": m.description,
        }
        for name, m in METRICS.items()
        if name in used
    ]
    write_document(root, study.name, "metric_defs", metrics)


def write_trials(study: Study, root: Root, trials: Iterable[Trial]) -> None:
    """The plan as known so far: every tuning trial, and the final trials of the cells whose search is over."""
    write_document(root, study.name, "trials", [_row(study, trial) for trial in trials])


def _row(study: Study, trial: Trial) -> dict[str, Any]:
    searched = _searched(study)
    drawn = study.catalogue.find("method", trial.method.use).batches(trial.method.params)
    params = {**dict(trial.method.params), **{key: _at(trial, key) for key in searched}}
    return {
        "trial_id": trial.id,
        "phase": trial.phase,
        "method": trial.method.name,
        "method_use": trial.method.use,
        "dataset": trial.dataset.name,
        "architecture": trial.architecture.name,
        "task": trial.task,
        "tasks": list(trial.tasks),
        "seed": trial.seed,
        "config_index": trial.config_index,
        "label": trial.label,
        "params": params,
        "config": json.loads(trial.to_json()),
        "config_sha256": trial.key,
        "world_size": trial.world,
        "steps": trial.recipe.drawing(drawn).total_steps(study.facts[trial.dataset.name].train_size),
    }


def _searched(study: Study) -> tuple[str, ...]:
    return tuple(study.spec.get("search", {}).get("space", {}))


def _at(trial: Trial, key: str) -> Any:
    """A searched value by its dotted name: ``train.lr``, ``architecture.dropout``."""
    group, _, name = key.partition(".")
    if group == "train":
        return getattr(trial.recipe, name)
    return getattr(trial, group).params[name]


def lock_claims(study: Study, root: Root) -> list[str]:
    """Register every claim before its first final run; gives the ids registered just now.

    The payload says how many final runs existed, so a claim that came late is seen to be late.
    """
    locked = {lock["claim_id"]: lock["payload"].get("registration") for lock in claim_locks(root, study.name)}
    fresh = [claim for claim in study.claims if locked.get(claim.id) != claim.registration(study.sha256)]
    if not fresh:
        return []
    existing = final_runs(study, root)
    for claim in fresh:
        payload = {
            "registration": claim.registration(study.sha256),
            "study_sha256": study.sha256,
            "claim": claim.to_dict(),
            "final_runs_before": existing,
        }
        register_claim(root, study.name, claim.id, payload)
    return [claim.id for claim in fresh]


def final_runs(study: Study, root: Root) -> int:
    """How many of the final trials known so far have been started."""
    from mtlfleet.store import read_document

    ids = [row["trial_id"] for row in read_document(root, study.name, "trials") if row["phase"] == "final"]
    return sum(state != "missing" for state in trial_states(root, study.name, ids).values())
