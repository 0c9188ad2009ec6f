"""What the judging reads: the study's runs with their chosen checkpoint's numbers, as one value. No SQL, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mtlfleet.plan.tasks import Metric

Reading = tuple[str, str]  # (task, metric)
Split = Literal["val", "test"]

OUTCOME_STATES = ("done", "diverged", "oom")  # the run has said its last word; anything else is still owed
FAILED_STATES = ("diverged", "oom")  # outcomes that are scored worst


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial. ``values``: (split, task, metric) -> value of the checkpoint that validation chose.

    ``curves``: (task, metric) -> (device seconds, validation reading) as it trained, for the metrics that claims about
    speed and cost ask for; the seconds are spread evenly over the steps.
    """

    trial: str
    phase: Literal["tune", "final"]
    method: str
    dataset: str
    architecture: str
    seed: int
    use: str = ""  # what the registry calls the method
    task: str = "*"
    config_index: int = 0
    state: str = "done"
    reason: str = ""
    label: str = ""
    params: str = "{}"
    attempts: int = 1
    device_s: float = 0.0
    test_reads: int = 0  # how often test was evaluated
    batches: int = 1  # drawn in a step; more than others' under a budget of steps is more data
    budget: str = "samples"
    device: str = ""  # what its attempts ran on; empty where that was not told
    started_at: str = ""  # ISO, UTC, of the first attempt
    values: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    curves: Mapping[Reading, tuple[tuple[float, float], ...]] = field(default_factory=dict)

    @property
    def order(self) -> tuple[object, ...]:
        """Rows are sorted by this before anything is added up, so the store's row order decides nothing."""
        return (
            self.phase,
            self.dataset,
            self.architecture,
            self.method,
            self.task,
            self.config_index,
            self.seed,
            self.trial,
        )


@dataclass(frozen=True, kw_only=True)
class TaskFact:
    """One task of a dataset: its primary metric, and what that metric is for a predictor that ignores its input."""

    dataset: str
    task: str
    primary: str
    chance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One lock of a claim, as written before (or after) its runs."""

    claim_id: str
    number: int
    registration: str
    registered_at: str


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Two methods of which all ``runs`` pairs of runs that can be compared left the same numbers, bit for bit."""

    method: str
    twin: str
    phase: str
    dataset: str
    architecture: str
    runs: int


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What the final runs of one place logged about gradients at one step: a median, 10th and 90th percentile.

    ``quantity``: ``cosine`` over pairs of tasks, or ``weight``; ``what``: the pair, or the task.
    """

    quantity: str
    method: str
    dataset: str
    architecture: str
    step: int
    what: str
    low: float
    middle: float
    high: float


@dataclass(frozen=True, kw_only=True)
class External:
    """A number that others published: shown beside our own, and part of no test."""

    source: str
    dataset: str
    method: str
    task: str
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What ``trials`` trials ran in, attempts of the same trial in another one included."""

    python: str
    torch: str
    device: str
    platform: str
    git_commit: str | None
    changed: bool
    trials: int


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A study's runs and everything needed to read them.

    ``single_task``: methods whose runs train one task each; the first is the reference of delta_m. ``seeds``: those the
    study asks of every method in the final phase.
    """

    study: str
    sha256: str
    runs: tuple[Run, ...]
    metrics: Mapping[str, Metric]
    tasks: tuple[TaskFact, ...]
    datasets: tuple[str, ...]
    architectures: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    single_task: tuple[str, ...] = ()
    registrations: tuple[Registration, ...] = ()
    title: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    twins: tuple[Twins, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)  # of methods, datasets, architectures, for people
    traces: tuple[Trace, ...] = ()
    external: tuple[External, ...] = ()
    environments: tuple[Environment, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(sorted(self.runs, key=lambda run: tuple(map(repr, run.order)))))

    @property
    def reference(self) -> str | None:
        return self.single_task[0] if self.single_task else None

    def label(self, name: str) -> str:
        return self.labels.get(name, name)

    def phase(self, phase: str) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.phase == phase)

    def up(self, metric: str) -> bool:
        return self.metrics[metric].direction == "max"

    def tasks_of(self, dataset: str) -> tuple[TaskFact, ...]:
        return tuple(fact for fact in self.tasks if fact.dataset == dataset)
