"""The wiring into Ray Tune: a Searcher that hands out our queue, a callback that listens, one Tuner for the whole
study."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from mtlfleet.launch.gang import Gang
from mtlfleet.plan import Resources, Trial
from mtlfleet.train import Site

STALL_S = 900.0  # a rank that gives no sign for this long is taken for hung
STRETCH_S = 1.0


@dataclass(frozen=True)
class Hooks:
    """What the scheduler loop asks of and tells the driver. Called in the driver's thread; must be quick."""

    next: Callable[[], Trial | None]
    live: Callable[[], int]
    started: Callable[[str], None]
    result: Callable[[str, Mapping[str, Any]], None]
    ended: Callable[[str, str], None]  # (trial id, error text or "")
    tick: Callable[[], None]
    draining: Callable[[], bool]


# Tune pickles Searcher, Stopper and callbacks into its snapshot; ours hold live objects, so they are looked up here
# instead.
_hooks: dict[str, Hooks] = {}


class PlanSearcher(Searcher):  # type: ignore[misc]
    """Suggests the queue's trials in the queue's order."""

    def __init__(self, launch: str, cell: Mapping[str, Any]) -> None:
        super().__init__(metric="step_done", mode="max")
        self.launch = launch
        self.cell = dict(cell)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        hooks = _hooks[self.launch]
        trial = None if hooks.draining() else hooks.next()
        if trial is not None:
            return {**self.cell, "id": trial.id, "trial": trial.to_json(), "world": trial.world}
        # None means "ask again": right while something runs whose end may bring final trials.
        return None if hooks.live() and not hooks.draining() else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the callback listens."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing: the study's state is in the store."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class Stop(tune.Stopper):  # type: ignore[misc]
    """Polled in every turn of Tune's loop."""

    def __init__(self, launch: str) -> None:
        self.launch = launch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return _hooks[self.launch].draining()


class Listener(tune.Callback):  # type: ignore[misc]
    """Tells the driver what happens; events may repeat for a trial that Tune re-queues."""

    def __init__(self, launch: str) -> None:
        self.launch = launch

    @property
    def hooks(self) -> Hooks:
        return _hooks[self.launch]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.hooks.started(trial.config["id"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.hooks.result(trial.config["id"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.hooks.ended(trial.config["id"], "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.hooks.ended(trial.config["id"], str(trial.get_error() or "the gang was lost repeatedly"))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.hooks.tick()


def _shape(config: Mapping[str, Any]) -> Any:
    """A free head and one bundle per rank: a head that asks for a share of a CPU can starve a machine that fits
    exactly."""
    bundle = {"CPU": config["cpus"], **({"GPU": config["gpus"]} if config["gpus"] else {})}
    return tune.PlacementGroupFactory([{}] + [bundle] * config["world"], strategy="PACK")


def fit(launch: str, hooks: Hooks, site: Site, resources: Resources, slots: int, scratch: Path) -> None:
    """Run the queue dry through one Tuner. Returns when nothing is left, or when draining is over."""
    cell = {
        "site": site,
        "study": site.study,
        "cpus": resources.cpus_per_worker,
        "gpus": resources.gpus_per_worker,
        "stall_s": STALL_S,
        "stretch_s": STRETCH_S,
        "id": "",
        "trial": "",
        "world": resources.workers,
    }
    _hooks[launch] = hooks
    try:
        tuner = tune.Tuner(
            tune.with_resources(Gang, _shape),
            param_space={},
            tune_config=tune.TuneConfig(
                search_alg=PlanSearcher(launch, cell),
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=launch,
                storage_path=str(scratch),
                verbose=0,
                stop=Stop(launch),
                callbacks=[Listener(launch)],
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    finally:
        del _hooks[launch]
        shutil.rmtree(scratch, ignore_errors=True)


def _name(trial: Any) -> str:
    return f"{trial.config.get('id') or 'trial'}-{trial.trial_id}"


def shutdown() -> None:
    ray.shutdown()
