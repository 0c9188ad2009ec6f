"""A mirror for MLflow: one experiment per study, one run per trial.

MLflow has no NaN and no infinity: it stores 0 with a flag and the largest float, and refuses a second NaN of one step.
Such values are therefore not sent; their names and first steps stand in tags ``nonfinite/<name>``, their number in
``mtlfleet.nonfinite``.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.store.mirrors import Mirrored
from mtlfleet.store.mirrors.traces import Point, Trace, traces
from mtlfleet.store.store import Store

BATCH = 1000  # MLflow's own limit for one call
_STATUS = {"done": "FINISHED", "running": "RUNNING", "interrupted": "KILLED"}
_MAX_TAG = 4000


def mirror(store: Store, study: str, target: str) -> Mirrored:
    """Runs of the experiment ``study`` at the tracking URI ``target``, found again by tag ``mtlfleet.trial``."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # results go to the target and nowhere else
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    written = unchanged = values = withheld = 0
    try:
        client: Any = MlflowClient(tracking_uri=target)
        found = client.get_experiment_by_name(study)
        experiment = found.experiment_id if found else client.create_experiment(study)
        known = {run.data.tags.get("mtlfleet.trial"): run for run in _runs(client, experiment)}
        for trace in traces(store, study):
            before = known.get(trace.facts["trial_id"])
            if before is not None and before.data.tags.get("mtlfleet.sha256") == trace.sha256:
                unchanged += 1
                continue
            sent, kept_back = _send(client, experiment, trace)
            if before is not None:  # only when the new one is whole
                client.delete_run(before.info.run_id)
            written, values, withheld = written + 1, values + sent, withheld + kept_back
    except (MlflowException, OSError) as error:
        raise EnvironmentProblem(
            f"MLflow at {target} did not take the results: {str(error).splitlines()[0]}",
            notes=[f"{written} trials were mirrored before that; mirroring again goes on"],
        ) from None
    return Mirrored(written, unchanged, values, withheld)


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _send(client: Any, experiment: str, trace: Trace) -> tuple[int, int]:
    """Create the run; its hash is set last, so that a run cut short is written anew. Returns what was sent and what
    was kept back."""
    from mlflow.entities import Metric, Param, RunTag

    facts = trace.facts
    started = _ms(facts["started_at"])
    run = client.create_run(experiment, start_time=started, run_name=facts["label"] or facts["trial_id"])
    finite = [p for p in trace.points if math.isfinite(p.value)]
    strange = [p for p in trace.points if not math.isfinite(p.value)]
    tags = {
        "mtlfleet.trial": facts["trial_id"],
        "mtlfleet.state": facts["state"],
        "mtlfleet.exit_reason": (facts["exit_reason"] or "")[:_MAX_TAG],
        "mtlfleet.nonfinite": str(len(strange)),
        **_first_steps(strange),
    }
    params = [Param(name, value[:_MAX_TAG]) for name, value in trace.params.items()]
    client.log_batch(run.info.run_id, params=params, tags=[RunTag(k, v) for k, v in tags.items()])
    at = started
    for start in range(0, len(finite), BATCH):
        batch = []
        for point in finite[start : start + BATCH]:
            at = _ms(point.at) if point.at else at
            batch.append(Metric(point.name, point.value, at, point.step))
        client.log_batch(run.info.run_id, metrics=batch)
    client.set_tag(run.info.run_id, "mtlfleet.sha256", trace.sha256)
    client.set_terminated(run.info.run_id, _STATUS.get(facts["state"], "FAILED"), _ms(facts["ended_at"]))
    return len(finite), len(strange)


def _first_steps(strange: Sequence[Point]) -> dict[str, str]:
    found: dict[str, str] = {}
    for point in strange:
        found.setdefault(f"nonfinite/{point.name}"[:250], f"{point.value} at step {point.step}")
    return found


def _ms(time: Any) -> int:
    return int(time.timestamp() * 1000) if time else 0
