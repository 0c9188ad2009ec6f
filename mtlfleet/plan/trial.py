"""One cell of a study: a frozen, hashable fact with a key that says "the same run"."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

KEY_VERSION = 1  # raised when a change of mtlfleet changes what the same configuration computes

Phase = Literal["tune", "final"]


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, shortest floats; equal values give equal text on every machine.

    >>> canonical({"b": 1.0, "a": (1, 2)})
    '{"a":[1,2],"b":1.0}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a trial's configuration holds only JSON values, found {type(value).__name__}: {value!r}")


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


_PATH = re.compile(r"^(root|path|.*_(root|path))$")


def is_path(name: str) -> bool:
    """Whether a dataset's parameter is a place on a machine: it may read ``${env:NAME}`` and stays out of every key."""
    return _PATH.match(name) is not None


@dataclass(frozen=True)
class Spec:
    """A citizen of the registry as one study uses it: ``name`` is the study's id for it, ``use`` the registry name.

    ``params`` are complete: defaults, preset and study values, so that a changed default changes the key.
    """

    name: str
    use: str
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    fingerprint: str = ""  # of the data, or of a plug-in's source; empty for built-in code
    heads: str = ""  # of a method: conventions laid over its own; empty leaves those
    scale: str = ""

    def science(self) -> dict[str, Any]:
        """What enters the key: not the study's own label."""
        asked = {name: value for name, value in (("heads", self.heads), ("scale", self.scale)) if value}
        return {"use": self.use, "params": dict(self.params), "fingerprint": self.fingerprint, **asked}

    def located(self) -> dict[str, Any]:
        """``science`` of data that lies somewhere: the fingerprint says which data it is, so the place stays out."""
        params = {name: value for name, value in self.params.items() if not is_path(name)}
        return {"use": self.use, "params": params, "fingerprint": self.fingerprint}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a trial trains; the ``train:`` block of a study. Steps and epochs: give exactly one.

    Both count batches. ``budget`` says what is equal between methods that draw different numbers of batches a step:
    ``samples`` drawn, so that a method with three batches a step makes a third of the steps; or optimizer ``steps``.
    ``patience``: stop after that many evaluations in a row without a better checkpoint; None trains to the end.
    ``schedule``: after the warm-up ``constant``, half a ``cosine`` down to zero, or ``step``: the rate is multiplied by
    ``decay`` at ``decays`` moments that cut the training into equal parts.
    ``geometry_every``: in every such step the task gradients are observed beside a method that takes none, by one more
    pass per task; what is trained does not change. None: never.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    lr: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 0.0
    momentum: Annotated[float, Ge(0)] = 0.0
    global_batch: Annotated[int, Gt(0)] = 64
    steps: Annotated[int, Gt(0)] | None = None
    epochs: Annotated[float, Gt(0)] | None = None
    schedule: Literal["constant", "cosine", "step"] = "constant"
    decay: Annotated[float, Gt(0), Lt(1)] = 0.5
    decays: Annotated[int, Gt(0)] = 1
    warmup_steps: Annotated[int, Ge(0)] = 0
    clip_norm: Annotated[float, Gt(0)] | None = None
    eval_every: Annotated[int, Gt(0)] | None = None
    checkpoint_every: Annotated[int, Gt(0)] | None = None
    keep: Literal["best", "last"] = "best"
    log_every: Annotated[int, Gt(0)] = 20
    max_skips: Annotated[int, Gt(0)] = 20
    budget: Literal["samples", "steps"] = "samples"
    patience: Annotated[int, Gt(0)] | None = None
    geometry_every: Annotated[int, Gt(0)] | None = None

    def science(self) -> dict[str, Any]:
        """What enters the key. What says nothing stays out: keys are older than these fields."""
        found = asdict(self)
        if self.geometry_every is None:
            del found["geometry_every"]
        if self.schedule != "step":
            del found["decay"], found["decays"]
        return found

    def drawing(self, batches: int) -> Recipe:
        """This recipe for a method that draws ``batches`` batches a step.

        Under a budget of samples: as many batches in fewer steps, never more; warm-up and evaluations in proportion.

        >>> Recipe(steps=100, eval_every=50).drawing(3).steps, Recipe(steps=100, budget="steps").drawing(3).steps
        (33, 100)
        """
        if batches == 1 or self.budget == "steps":
            return self
        return replace(
            self,
            steps=None if self.steps is None else max(1, self.steps // batches),
            epochs=None if self.epochs is None else self.epochs / batches,
            eval_every=None if self.eval_every is None else math.ceil(self.eval_every / batches),
            warmup_steps=math.ceil(self.warmup_steps / batches),
        )

    def total_steps(self, train_size: int) -> int:
        """Optimizer steps of the whole trial; an epoch is ceil(train_size / global_batch) steps."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(round((self.epochs or 1.0) * math.ceil(train_size / self.global_batch), 9)))

    def eval_interval(self, train_size: int) -> int:
        return self.eval_every or max(1, self.total_steps(train_size) // 10)

    def checkpoint_interval(self, train_size: int) -> int:
        return self.checkpoint_every or self.eval_interval(train_size)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run: what is trained on what, how, from which seed, on how many ranks, and whether test may be read."""

    method: Spec
    dataset: Spec
    architecture: Spec
    strategy: Spec
    recipe: Recipe
    tasks: tuple[str, ...]
    seed: int
    phase: Phase
    world: int = 1
    config_index: int = 0  # which point of the search space; a label, not part of the key

    def science(self) -> dict[str, Any]:
        """The resolved configuration that the key is made of; no paths, no labels, no site settings."""
        return {
            "key_version": KEY_VERSION,
            "method": self.method.science(),
            "dataset": self.dataset.located(),
            "architecture": self.architecture.science(),
            "strategy": self.strategy.science(),
            "train": self.recipe.science(),
            "tasks": list(self.tasks),
            "seed": self.seed,
            "world": self.world,
            "reads_test": self.phase == "final",
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of ``science()``: same key, same run."""
        return digest(self.science())

    @property
    def id(self) -> str:
        """The first 16 hex digits of the key: the trial's name in paths, SQL and messages."""
        return self.key[:16]

    @property
    def task(self) -> str:
        """The single task of a single-task run, else ``*``."""
        return self.tasks[0] if self.single_task else "*"

    @property
    def single_task(self) -> bool:
        return len(self.tasks) == 1

    @property
    def label(self) -> str:
        """For people: what this trial is, in one line."""
        parts = [self.method.name, self.dataset.name, self.architecture.name, f"s{self.seed}"]
        if self.single_task:
            parts.insert(1, self.task)
        if self.phase == "tune":
            parts.append(f"tune{self.config_index}")
        return "/".join(parts)

    def to_json(self) -> str:
        return canonical(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Trial:
        """Inverse of ``to_json``; unknown fields are refused by the dataclasses themselves."""
        raw = json.loads(text)
        for name in ("method", "dataset", "architecture", "strategy"):
            raw[name] = Spec(**raw[name])
        raw["recipe"] = Recipe(**raw["recipe"])
        raw["tasks"] = tuple(raw["tasks"])
        return cls(**raw)


RECIPE_FIELDS = tuple(f.name for f in fields(Recipe))
