"""What the driver writes down about a study: the plan, the definitions, the registrations of its claims."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import mtlfleet
from mtlfleet.plan import Study, Trial
from mtlfleet.plan.claims import Claim
from mtlfleet.plan.place import Root
from mtlfleet.plan.tasks import METRICS
from mtlfleet.store import claim_locks, read_document, register_claim, trial_states, write_document


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


def lock_claims(claims: Iterable[Claim], study: str, sha256: str, root: Root) -> tuple[str, ...]:
    """Register each claim whose newest registration is not the present one; gives their ids.

    Nothing is overwritten, and nothing needs to have run. The payload says how many of the study's final runs had been
    started by then, so a claim that came late is seen to be late.
    """
    newest = {lock["claim_id"]: lock["payload"].get("registration") for lock in claim_locks(root, study)}
    fresh = [claim for claim in claims if newest.get(claim.id) != claim.registration(sha256)]
    final = [row["trial_id"] for row in read_document(root, study, "trials") if row["phase"] == "final"]
    started = sum(state != "missing" for state in trial_states(root, study, final).values()) if fresh else 0
    for claim in fresh:
        payload = {
            "registration": claim.registration(sha256),
            "study_sha256": sha256,
            "claim": claim.to_dict(),
            "final_runs_before": started,
        }
        register_claim(root, study, claim.id, payload)
    return tuple(claim.id for claim in fresh)
