"""From a trial's specs to living objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mtlfleet.architectures.base import Architecture
from mtlfleet.datasets.base import Dataset, Samples, Split
from mtlfleet.methods.base import Method
from mtlfleet.methods.conventions import under
from mtlfleet.plan.place import Root
from mtlfleet.plan.streams import stream
from mtlfleet.plan.tasks import Task
from mtlfleet.plan.trial import Spec, Trial, canonical
from mtlfleet.registry import Catalogue
from mtlfleet.strategies.base import Strategy
from mtlfleet.train.environment import NOWHERE, Origin


@dataclass(frozen=True)
class Site:
    """Where this machine keeps a study: facts that never enter a trial's key."""

    root: Root
    study: str
    plugins: tuple[str, ...] = ()
    base: Path = Path()
    device: str = "auto"
    keep_weights: bool = False  # of final trials
    origin: Origin = NOWHERE

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.plugins, self.base)


@dataclass(frozen=True)
class Parts:
    """A trial's objects; ``tasks`` are those it trains, in the dataset's order."""

    dataset: Dataset
    tasks: tuple[Task, ...]
    model: nn.Module
    method: Method[Any]
    strategy: Strategy
    splits: dict[Split, Samples]


@lru_cache(maxsize=8)
def _dataset(site: Site, use: str, params: str) -> Dataset:
    """One object per dataset and process: cells that share data load it once."""
    import json

    found: Dataset = site.catalogue.load("dataset", use)(**_values(json.loads(params)))
    return found


def _values(params: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where dataclass fields are tuples."""
    return {name: _tuple(value) for name, value in params.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value


def build_spec(site: Site, kind: str, spec: Spec) -> Any:
    """The object a spec describes. Raises UnknownName or PluginError."""
    return site.catalogue.load(kind, spec.use)(**_values(dict(spec.params)))


def build_method(site: Site, spec: Spec) -> Method[Any]:
    """The method a spec describes, under the conventions it names. Raises OutOfDomain too."""
    return under(build_spec(site, "method", spec), spec.heads, spec.scale)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of this rank's device.

    ``torch.manual_seed`` would also queue a call, with a formatted stack, for every accelerator library that is not
    there: more than a millisecond in each training step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class _Made(NamedTuple):
    dataset: Dataset
    tasks: tuple[Task, ...]
    strategy: Strategy
    model: nn.Module


def _make(trial: Trial, site: Site, device: torch.device) -> _Made:
    dataset = _dataset(site, trial.dataset.use, canonical(trial.dataset.params))
    facts = dataset.facts()
    tasks = tuple(task for task in facts.tasks if task.name in trial.tasks)
    architecture: Architecture = build_spec(site, "architecture", trial.architecture)
    seed_torch(stream(trial.seed, "init"), device)
    strategy: Strategy = build_spec(site, "strategy", trial.strategy)
    model = strategy.wrap(architecture.build(tasks, facts.input_shape), tasks).to(device)
    return _Made(dataset, tasks, strategy, model)


def build_model(trial: Trial, site: Site, device: torch.device) -> nn.Module:
    """The trial's model as it was before its first step: the weights depend on the seed alone. No split is loaded."""
    return _make(trial, site, device).model


def build(trial: Trial, site: Site, device: torch.device) -> Parts:
    """All of a trial's objects."""
    made = _make(trial, site, device)
    wanted: Sequence[Split] = tuple(Split) if trial.phase == "final" else (Split.TRAIN, Split.VAL)
    return Parts(
        made.dataset,
        made.tasks,
        made.model,
        build_method(site, trial.method),
        made.strategy,
        {split: made.dataset.split(split) for split in wanted},
    )
