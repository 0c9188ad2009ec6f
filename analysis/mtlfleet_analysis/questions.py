"""What a claim asks of the evidence at one look: which differences, and the test they are put to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from mtlfleet.plan.claims import ON_THE_WAY, Baseline, Claim, Estimand, Preference
from mtlfleet_analysis.decision import ShiftTest
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.jointly import EveryPart, FrontTest
from mtlfleet_analysis.pace import paced
from mtlfleet_analysis.pairing import Choice, Pair, Pairing, pair, places, seeds_of
from mtlfleet_analysis.scoring import Place
from mtlfleet_analysis.sensitivity import dataset_means, main_test
from mtlfleet_analysis.sweeps import Point, bulge, finer, normalised

_ENUMERATED = 4096  # ways to take one point of a sweep at every place; beyond, the worst one and its neighbours
_TESTED = 6  # of them, the hardest to beat go through the exact test


@dataclass(frozen=True)
class Question:
    """``focus``: the pairs behind the printed effect; ``eps``: what superiority must exceed; ``facts``: for detail."""

    focus: Pairing
    test: ShiftTest
    eps: float = 0.0
    grid_too_coarse: bool = False
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Gathered:
    """All pairings a claim needs, before anything is tested. ``shown`` stands for them if a guard stops the claim."""

    claim: Claim
    evidence: Evidence
    shown: Pairing
    parts: Mapping[str, Pairing]
    weights: Mapping[tuple[str, Place], tuple[float, ...]] = field(default_factory=dict)  # of a sweep's points

    @property
    def guarded(self) -> Pairing:
        """What the guards look at: the shown pairs, and all that any part still lacks."""
        missing = (m for found in (self.shown, *self.parts.values()) for m in found.missing)
        return replace(self.shown, missing=tuple(dict.fromkeys(missing)))

    @property
    def order(self) -> tuple[int, ...]:
        return seeds_of(self.evidence, self.claim)


def gather(evidence: Evidence, claim: Claim) -> Gathered:
    """Pair the method with its baseline: once, for each task, or for each preference with every point of a sweep."""
    kind = claim.estimand.kind
    if kind == "every_task":
        shown = pair(evidence, replace(claim, estimand=Estimand(kind="delta_p")))
        return Gathered(claim, evidence, shown, dict(by_task(evidence, claim)))
    if kind in ON_THE_WAY:
        return Gathered(claim, evidence, pair(*paced(evidence, claim)), {})
    if kind != "front_pref":
        return Gathered(claim, evidence, pair(evidence, claim), {})
    parts: dict[str, Pairing] = {}
    for j, preference in enumerate(_preferences(claim)):
        own = replace(claim, estimand=replace(claim.estimand, preferences=(preference,) if preference else ()))
        parts[f"{j}"] = pair(evidence, own)
        for member in claim.baseline.best_of if claim.baseline.sweep else ():
            parts[f"{j}/{member}"] = pair(evidence, replace(own, baseline=Baseline(best_of=(member,))))
    shown = parts["0"] if parts["0"].pairs or not claim.baseline.sweep else parts[f"0/{claim.baseline.best_of[0]}"]
    return Gathered(claim, evidence, shown, parts, _sweep_weights(evidence, claim))


def _sweep_weights(evidence: Evidence, claim: Claim) -> dict[tuple[str, Place], tuple[float, ...]]:
    """Static weights of a sweep's points, from the parameters of their final runs; left out where they are unknown."""
    found: dict[tuple[str, Place], tuple[float, ...]] = {}
    wanted = set(places(evidence, claim)) if claim.baseline.sweep else set()
    for run in evidence.phase("final"):
        place = (run.dataset, run.architecture)
        if run.method not in claim.baseline.best_of or place not in wanted or (run.method, place) in found:
            continue
        raw = json.loads(run.params or "{}")
        given = raw.get("method.weights", raw.get("weights"))
        tasks = len(evidence.tasks_of(run.dataset))
        if given is None and ("weights" in raw or run.use == "sum") and tasks:  # None is the plain sum
            given = [1.0] * tasks
        if isinstance(given, list) and all(isinstance(w, int | float) for w in given) and math.fsum(given) > 0:
            found[run.method, place] = normalised(given)
    return found


def _preferences(claim: Claim) -> tuple[Preference, ...]:
    return claim.estimand.preferences or ((),)


def by_task(evidence: Evidence, claim: Claim) -> Iterator[tuple[str, Pairing]]:
    """The pairs of each dataset's each task, as percent changes of that task."""
    for dataset in dict.fromkeys(d for d, _ in places(evidence, claim)):
        for fact in sorted(evidence.tasks_of(dataset), key=lambda f: f.task):
            own = replace(claim, datasets=(dataset,), estimand=Estimand(kind="every_task", task=fact.task))
            yield f"{dataset}.{fact.task}", pair(evidence, own)


def pose(gathered: Gathered, seed: int) -> Question:
    """The test of a claim that no guard stops."""
    kind = gathered.claim.estimand.kind
    if kind == "every_task":
        return _safety(gathered, seed)
    if kind == "front_pref":
        return _Front(gathered, seed).question()
    test = main_test(gathered.claim, gathered.shown.pairs, seed, order=gathered.order)
    return Question(gathered.shown, test)


def _safety(gathered: Gathered, seed: int) -> Question:
    claim = gathered.claim
    tests = {name: main_test(claim, found.pairs, seed) for name, found in gathered.parts.items()}
    worst = max(tests, key=lambda name: tests[name].above(-claim.margin))
    rows = [
        {
            "task": name,
            "effect": float(np.mean(list(dataset_means(gathered.parts[name].pairs).values()))),
            "p_safe": test.above(-claim.margin),
            "p_unsafe": test.below(-claim.margin),
        }
        for name, test in tests.items()
    ]
    return Question(gathered.parts[worst], EveryPart(tuple(tests.values())), facts={"tasks": rows, "worst_task": worst})


@dataclass(frozen=True)
class _Front:
    """A claim about a front, worked out."""

    gathered: Gathered
    seed: int

    @cached_property
    def members(self) -> tuple[str, ...]:
        claim = self.gathered.claim
        return claim.baseline.best_of if claim.baseline.sweep else ()

    @cached_property
    def where(self) -> tuple[Place, ...]:
        return places(self.gathered.evidence, self.gathered.claim)

    def question(self) -> Question:
        claim = self.gathered.claim
        preferences = _preferences(claim)
        grids = [self.grid(j) for j in range(len(preferences))]
        known = [g for g in grids if g is not None]
        eps_grid = max(known) if len(known) == len(grids) and known else None
        declared = claim.estimand.eps
        eps = declared if declared is not None else (eps_grid or 0.0)
        limit = declared if declared is not None else claim.margin
        coarse = bool(self.members) and (eps_grid is None or eps_grid > limit)
        hardest = [self.hardest(j, eps) for j in range(len(preferences))]
        chosen = tuple(self.chosen(j) for j in range(len(preferences)))
        against = tuple(
            tuple(main_test(claim, pairs, self.seed) for _, pairs in found) or (chosen[j],)
            for j, found in enumerate(hardest)
        )
        test = FrontTest(against, chosen)
        best = min(range(len(preferences)), key=lambda j: test.of_preference(j, eps))
        focus = self.focus(best, hardest[best], against[best], eps)
        facts = {
            "preferences": [
                {"w": dict(p) or "equal", "p": test.of_preference(j, eps), "eps_grid": grids[j]}
                for j, p in enumerate(preferences)
            ],
            "eps": eps, "eps_grid": eps_grid, "too_coarse": coarse,
            "finer": self.finer(best, focus) if coarse else [],
        }  # fmt: skip
        return Question(focus, test, eps, coarse, {"front": facts})

    def chosen(self, j: int) -> ShiftTest:
        """Against the point that validation chose under a preference.

        Without tuning runs nothing could choose one but the runs that are judged: then against the least of all points,
        each taken at every place, with its share of the level.
        """
        claim, parts = self.gathered.claim, self.gathered.parts
        if not self.members or all(c.baseline is not None for c in parts[f"{j}"].choices):
            return main_test(claim, parts[f"{j}"].pairs, self.seed)
        return EveryPart(tuple(main_test(claim, parts[f"{j}/{m}"].pairs, self.seed) for m in self.members))

    def focus(
        self, j: int, found: Sequence[tuple[tuple[str, ...], list[Pair]]], tests: Sequence[ShiftTest], eps: float
    ) -> Pairing:
        """The pairs against the point that is hardest to beat; of a baseline that is no sweep, the chosen one."""
        base = self.gathered.parts[f"{j}"]
        if not found:
            return base
        (names, pairs), _ = max(zip(found, tests, strict=True), key=lambda part: part[1].above(eps))
        scores = {(c.dataset, c.architecture): c.scores for c in base.choices}
        choices = tuple(Choice(d, a, n, scores.get((d, a), {})) for (d, a), n in zip(self.where, names, strict=True))
        return Pairing(tuple(pairs), choices, ())

    def hardest(self, j: int, eps: float) -> list[tuple[tuple[str, ...], list[Pair]]]:
        """Ways to take one point of the sweep at every place, the hardest to beat by a t statistic first."""
        if not self.members:
            return []
        cells = {
            (place, m): [p for p in self.gathered.parts[f"{j}/{m}"].pairs if p.stratum == place]
            for place in self.where
            for m in self.members
        }
        moments = {at: _moments([p.difference for p in pairs]) for at, pairs in cells.items()}

        def statistic(names: tuple[str, ...]) -> float:
            found = [moments[place, m] for place, m in zip(self.where, names, strict=True)]
            se = float(np.sqrt(sum(v for _, v in found)))
            gap = sum(mean for mean, _ in found) - eps * len(found)
            return gap / se if se > 0 else float(np.sign(gap)) * np.inf

        ranked = sorted(self._ways(moments), key=lambda names: (statistic(names), names))[:_TESTED]
        return [
            (names, sorted(p for place, m in zip(self.where, names, strict=True) for p in cells[place, m]))
            for names in ranked
        ]

    def _ways(self, moments: Mapping[tuple[Place, str], tuple[float, float]]) -> Iterator[tuple[str, ...]]:
        if len(self.members) ** len(self.where) <= _ENUMERATED:
            yield from product(self.members, repeat=len(self.where))
            return
        worst = tuple(min(self.members, key=lambda m: moments[place, m][0]) for place in self.where)
        yield worst
        for i in range(len(worst)):
            yield from ((*worst[:i], m, *worst[i + 1 :]) for m in self.members if m != worst[i])

    def points(self, j: int, place: Place) -> list[Point] | None:
        """The sweep at one place in weight space, as mean scores under a preference; None without known weights."""
        found = []
        for member in self.members:
            weights = self.gathered.weights.get((member, place))
            scores = [p.baseline for p in self.gathered.parts[f"{j}/{member}"].pairs if p.stratum == place]
            if weights is None or not scores:
                return None
            found.append(Point(member, weights, float(np.mean(np.sort(scores)))))
        return found

    def grid(self, j: int) -> float | None:
        """Mean over the places of how far the sweep bulges between its points; None where that cannot be known."""
        found: list[float] = []
        for place in self.where:
            points = self.points(j, place) if self.members else None
            here = bulge(points) if points else None
            if here is None:
                return None
            found.append(here)
        return float(np.mean(found)) if found else None

    def finer(self, j: int, focus: Pairing) -> list[dict[str, Any]]:
        """Weights that would make the sweep finer beside the point that is hardest to beat."""
        rows = []
        for choice in focus.choices:
            points = self.points(j, (choice.dataset, choice.architecture))
            if points and choice.baseline in {p.name for p in points}:
                rows.append({"dataset": choice.dataset, "weights": finer(points, str(choice.baseline))})
        return rows


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and squared standard error."""
    d = np.sort(np.array(values))
    return float(d.mean()), float(d.var(ddof=1) / d.size) if d.size > 1 else 0.0
