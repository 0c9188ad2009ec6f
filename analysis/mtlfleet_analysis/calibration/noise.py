"""The noise of simulated studies: one number per method, dataset and seed, with the shares that real runs have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtlfleet.plan.claims import Estimand
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.scoring import outcomes, scale_of, score
from mtlfleet_analysis.signflip import Floats

TASKS = (2, 7)  # tasks of a dataset, drawn evenly from 2 to 6


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Where the variance of one run's average percent change comes from; the unit is its standard deviation.

    ``rho``: share that methods of one seed have in common. ``common``: share that a run's tasks have in common.
    ``tail``: degrees of freedom of the t distribution that everything is drawn from. ``task_spread`` and
    ``dataset_spread``: standard deviations of the logarithm of a task's, and of a dataset's, own noise. ``tau``:
    standard deviation over datasets of a true contrast between two methods, for claims about other datasets.
    ``skew``: the method's own draws are exponential instead.
    """

    rho: float = 0.25
    common: float = 0.3
    tail: float = 5.0
    task_spread: float = 0.5
    dataset_spread: float = 0.25
    tau: float = 0.5
    skew: bool = False

    def runs(
        self, rng: np.random.Generator, studies: int, methods: int, datasets: int, seeds: int, tau: float = 0.0
    ) -> Floats:
        """[studies, methods, datasets, seeds] average percent changes, all of mean zero."""
        shape = (studies, methods, datasets, seeds)
        tasks = rng.integers(*TASKS, size=(studies, 1, datasets, 1, 1))
        size = np.exp(self.task_spread * rng.standard_normal((studies, 1, datasets, 1, TASKS[1] - 1)))
        size = np.where(np.arange(TASKS[1] - 1) < tasks, size, 0.0)
        own = (self._draw(rng, (*shape, TASKS[1] - 1)) * size).sum(-1) / np.sqrt(np.square(size).sum(-1))
        run = math.sqrt(self.common) * self._draw(rng, shape) + math.sqrt(1 - self.common) * own
        if self.skew:
            run[:, :1] = rng.exponential(size=(studies, 1, datasets, seeds)) - 1.0
        seed = self._draw(rng, (studies, 1, datasets, seeds))
        scale = np.exp(self.dataset_spread * rng.standard_normal((studies, 1, datasets, 1)) - self.dataset_spread**2)
        found = scale * (math.sqrt(self.rho) * seed + math.sqrt(1 - self.rho) * run)
        if tau:  # the contrast of two methods then varies by tau
            found = found + tau / math.sqrt(2) * rng.standard_normal((studies, methods, datasets, 1))
        return np.asarray(found)

    def differences(
        self, rng: np.random.Generator, studies: int, datasets: int, seeds: int, effect: float = 0.0, tau: float = 0.0
    ) -> Floats:
        """[studies, datasets, seeds] paired differences of two methods whose true contrast is ``effect``."""
        runs = self.runs(rng, studies, 2, datasets, seeds, tau)
        return np.asarray(runs[:, 0] - runs[:, 1] + effect)

    def _draw(self, rng: np.random.Generator, shape: Sequence[int]) -> Floats:
        """Unit variance."""
        return rng.standard_t(self.tail, size=tuple(shape)) / math.sqrt(self.tail / (self.tail - 2))


@dataclass(frozen=True)
class Fitted:
    """A noise model read off real runs: ``sd`` of a run's average percent change by place; ``rho``; ``tau`` in sd.

    ``kurtosis``: excess kurtosis of the residuals, scaled by their place; 6 for t(5), 0 for normal noise.
    """

    sd: dict[str, float]
    rho: float
    tau: float
    kurtosis: float
    methods: int
    seeds: int

    def noise(self) -> Noise:
        """The model with these numbers; tails as heavy as the excess kurtosis asks, within t(5) and t(30)."""
        tail = min(30.0, max(5.0, 4 + 6 / self.kurtosis)) if self.kurtosis > 0 else 30.0
        return Noise(rho=max(0.0, min(self.rho, 0.9)), tau=self.tau, tail=tail)


def fit(evidence: Evidence, methods: Sequence[str] = ()) -> Fitted:
    """Fit the noise of the final runs of ``methods`` (default: all but single-task ones), failures left out.

    Raises ValueError where fewer than two methods share two seeds at a place.
    """
    names = list(methods) or [m for m in evidence.methods if m not in evidence.single_task]
    tables = {place: table for place, table in _tables(evidence, names).items() if min(table.shape) >= 2}
    if not tables:
        raise ValueError("the noise is fitted to two methods or more with two seeds or more in common, with STL runs")
    variances, shares, residuals, means = [], [], [], {}
    for place, table in tables.items():
        rest = table - table.mean(axis=1, keepdims=True)
        cov = rest @ rest.T / (table.shape[1] - 1)
        m = len(cov)
        variance = float(np.trace(cov)) / m
        variances.append(variance)
        shares.append((float(cov.sum()) - float(np.trace(cov))) / (m * (m - 1)))
        residuals.append(rest.ravel() / math.sqrt(variance) if variance > 0 else rest.ravel())
        means[place] = table.mean(axis=1)
    rho = float(np.sum(shares) / np.sum(variances)) if np.sum(variances) > 0 else 0.0
    seeds = min(t.shape[1] for t in tables.values())
    every = np.concatenate(residuals)
    kurtosis = float(np.mean(every**4) / np.mean(every**2) ** 2 - 3) if np.any(every) else 0.0
    sd = {place: math.sqrt(v) for place, v in zip(tables, variances, strict=True)}
    return Fitted(sd, rho, _tau(means, variances, rho, seeds), kurtosis, len(names), seeds)


def _tau(means: dict[str, Floats], variances: Sequence[float], rho: float, seeds: int) -> float:
    """SD over places of the contrasts of method pairs, beyond what seeds explain, in run standard deviations."""
    if len(means) < 2:
        return 0.0
    size = math.sqrt(float(np.mean(variances)))
    if size == 0:
        return 0.0
    table = np.stack(list(means.values())) / size  # [places, methods]
    left, right = np.triu_indices(table.shape[1], 1)
    contrasts = table[:, left] - table[:, right]
    of_seeds = 2 * (1 - rho) / seeds
    return math.sqrt(max(0.0, float(np.mean(contrasts.var(axis=0, ddof=1))) - of_seeds))


def _tables(evidence: Evidence, names: Sequence[str]) -> dict[str, Floats]:
    """place -> [methods, seeds] average percent changes on test, of the seeds that every method finished."""
    runs = evidence.phase("final")
    joined = {arm: o for arm, o in outcomes(runs, "test").items() if o.complete and not o.failed}
    found: dict[str, Floats] = {}
    for dataset in evidence.datasets:
        scale = scale_of(evidence, runs, dataset, "test")
        for architecture in evidence.architectures:
            rows: list[dict[int, float]] = []
            for name in names:
                row = {}
                for (method, at, on, seed), outcome in joined.items():
                    if (method, at, on) == (name, dataset, architecture):
                        value = score(outcome, scale, architecture, Estimand(), evidence)
                        if value is not None:
                            row[seed] = value.value
                rows.append(row)
            seeds = sorted(set.intersection(*map(set, rows))) if rows else []
            if seeds:
                found[f"{dataset} {architecture}"] = np.array([[row[s] for s in seeds] for row in rows])
    return found
