"""Simulated studies with a known truth: what the judging is calibrated on, and what the report is tried on.

Noise: every run's percent change is its method's true effect, plus a part shared by methods of one seed, plus a part
common to its tasks, plus task noise. The trade-off between the first two tasks follows the configuration's weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from mtlfleet.plan.claims import Claim
from mtlfleet.plan.streams import stream
from mtlfleet.plan.tasks import METRICS
from mtlfleet_analysis.evidence import Evidence, Registration, Run, TaskFact

_NORMAL = NormalDist()
BEFORE, STARTED = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is simulated. ``effects``: method -> true improvement in percent; ``stl`` is added by itself.

    ``noise``: standard deviation of one run's average percent change; ``shared``: share of its variance that methods
    of the same seed have in common; ``between``: standard deviation over datasets of a method's effect. ``fates``:
    (method, dataset, seed) -> state of final runs that did not end as ``done``. ``configs``: tuned configurations of
    each method.
    """

    effects: Mapping[str, float]
    datasets: tuple[str, ...] = ("digits", "waves")
    architectures: tuple[str, ...] = ("hps",)
    tasks: tuple[str, ...] = ("left", "right")
    metric: str = "error"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning_seeds: tuple[int, ...] = (901, 902)
    configs: int = 1
    noise: float = 1.0
    shared: float = 0.25
    between: float = 0.0
    fates: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    sweep: Mapping[str, float] = field(default_factory=dict)  # method -> weight of the first task, the others share
    study: str = "simulated"
    scale: float = 1.0  # multiplies every reading: a change of unit


def simulate(design: Design, seed: int, claims: Sequence[Claim] = ()) -> Evidence:
    """Evidence as the store would give it, with ``claims`` registered before the first final run."""
    sha256 = f"{stream(seed, design.study):016x}"
    draw = _Draw(design, seed)
    runs: list[Run] = []
    for dataset in design.datasets:
        for architecture in design.architectures:
            for method in ("stl", *design.effects):
                runs += draw.cell(dataset, architecture, method)
    chance = 0.9 * design.scale
    locks = [
        Registration(claim_id=c.id, number=1, registration=c.registration(sha256), registered_at=BEFORE) for c in claims
    ]
    return Evidence(
        study=design.study,
        title="Simulated: does the optimizer beat a tuned sum of losses?",
        sha256=sha256,
        runs=tuple(runs),
        metrics=METRICS,
        tasks=tuple(
            TaskFact(dataset=d, task=t, primary=design.metric, chance=chance)
            for d in design.datasets
            for t in design.tasks
        ),
        datasets=design.datasets,
        architectures=design.architectures,
        methods=("stl", *design.effects),
        seeds=design.seeds,
        single_task=("stl",),
        registrations=tuple(locks),
        versions={"mtlfleet": "simulated"},
    )


class _Draw:
    """The random draws of one study, each keyed by what it is for."""

    def __init__(self, design: Design, seed: int) -> None:
        self.design, self.seed = design, seed

    def uniform(self, *address: object) -> float:
        """Keyed by its address, which is hashed to a number: a generator for each would be most of a study's cost."""
        return (stream(self.seed, "/".join(map(str, address))) + 0.5) / 2.0**63

    def normal(self, *address: object) -> float:
        return _NORMAL.inv_cdf(self.uniform(*address))

    def cell(self, dataset: str, architecture: str, method: str) -> list[Run]:
        d = self.design
        runs: list[Run] = []
        for task in d.tasks if method == "stl" else ("*",):
            for config in range(d.configs):
                runs += [self.run("tune", dataset, architecture, method, task, s, config) for s in d.tuning_seeds]
            runs += [self.run("final", dataset, architecture, method, task, s, d.configs // 2) for s in d.seeds]
        return runs

    def run(self, phase: str, dataset: str, architecture: str, method: str, task: str, seed: int, config: int) -> Run:
        d = self.design
        weight = d.sweep.get(method, (config + 1) / (d.configs + 1))
        tasks = d.tasks if task == "*" else (task,)
        address = (phase, dataset, architecture, method, seed, config)
        state = d.fates.get((method, dataset, seed), "done") if phase == "final" else "done"
        effect = d.effects.get(method, 0.0) + d.between * self.normal("between", dataset, method)
        common = self.normal("shared", phase, dataset, architecture, seed) * math.sqrt(d.shared) + self.normal(
            "run", *address
        ) * math.sqrt(1 - d.shared)
        values: dict[tuple[str, str, str], float] = {}
        for name in tasks if state == "done" else ():
            tilt = 0.0 if method == "stl" else 6 * (weight - 0.5) * (1 if name == d.tasks[0] else -1)
            bend = 0.0 if method == "stl" else 8 * (weight - 0.5) ** 2
            for split in ("val", "test") if phase == "final" else ("val",):
                own = 0.6 * self.normal("task", *address, name, split)
                gain = effect + tilt - bend + d.noise * (common + own) / math.sqrt(1 + 0.36 / len(d.tasks))
                values[split, name, d.metric] = d.scale * self.base(dataset, name) * (1 - gain / 100)
        key = f"{stream(self.seed, '/'.join(map(str, (*address, task)))):016x}"
        return Run(
            trial=key,
            phase="tune" if phase == "tune" else "final",
            method=method,
            dataset=dataset,
            architecture=architecture,
            seed=seed,
            task=task,
            config_index=config,
            state=state,
            reason="" if state == "done" else f"simulated {state}",
            label=f"{method}/{dataset}/{architecture}/s{seed}",
            params=json.dumps(self.params(method, weight)),
            device_s=10.0 * (2 if method not in ("stl", "ls") else 1),
            test_reads=1 if phase == "final" and state == "done" else 0,
            started_at=STARTED,
            values=values,
        )

    def params(self, method: str, weight: float) -> dict[str, object]:
        if method not in self.design.sweep:
            return {"weight": round(weight, 3)}
        others = len(self.design.tasks) - 1
        return {"weights": [weight, *([(1 - weight) / others] * others)]}

    def base(self, dataset: str, task: str) -> float:
        return 0.1 + 0.4 * self.uniform("base", dataset, task)
