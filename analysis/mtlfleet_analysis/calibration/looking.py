"""Experiments on looking more than once, on families that are flipped together, and on fronts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mtlfleet_analysis.calibration.findings import Finding, Measure
from mtlfleet_analysis.calibration.noise import Noise
from mtlfleet_analysis.calibration.rules import FLIPS, METHODS, generator, strata_of
from mtlfleet_analysis.decision import FlipTest
from mtlfleet_analysis.families import max_t
from mtlfleet_analysis.jointly import FrontTest
from mtlfleet_analysis.pareto import non_dominated
from mtlfleet_analysis.sequential import Anytime, Scheduled
from mtlfleet_analysis.signflip import Floats, weights_of
from mtlfleet_analysis.sweeps import Point, bulge, normalised

Run = Callable[[Noise, int, int], list[Finding]]
LOOKS, SHARES = (5, 10, 20), (0.2, 0.3, 0.5)
SIGMA = 0.03  # a run's noise on each task, the front's radius being one


def _flip(d: Floats) -> FlipTest:
    return FlipTest.of(list(d.ravel()), strata_of(*d.shape), 0, FLIPS)


def scheduled(datasets: int, effect: float = 0.5) -> Run:
    """G6: looks at 5, 10 and 20 seeds that spend 0.01, 0.015 and 0.025; what they cost in power."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G6", cell=f"D={datasets}, looks 5, 10, 20", studies=studies)
        drawn = noise.differences(generator(seed, 6, datasets), studies, datasets, LOOKS[-1])

        def supported(d: Floats) -> bool:
            return Scheduled(tuple(_flip(d[:, :n]) for n in LOOKS), SHARES).above(0.0) <= 0.05

        fixed = float(np.mean([_flip(d + effect).above(0.0) <= 0.05 for d in drawn]))
        return [
            at.error("group-sequential sign-flip", [supported(d) for d in drawn]),
            at.power(
                f"its power at {effect:g} sd; n = 20 at once has {fixed:.3f}",
                [supported(d + effect) for d in drawn],
                fixed - 0.13,
            ),
        ]

    return run


def anytime(datasets: int, most: int = 40) -> Run:
    """G6: a look after every seed, without end."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G6", cell=f"D={datasets}, {most} looks", studies=studies)
        drawn = noise.differences(generator(seed, 6, datasets, most), studies, datasets, most).mean(axis=1)
        return [
            at.rate("e-process, at any time", [Anytime(d).above(0.0) <= 0.05 for d in drawn], 0.05),  # no allowance
            at.rate("its power at 1 sd (shown)", [Anytime(d + 1.0).above(0.0) <= 0.05 for d in drawn], 1.0),
        ]

    return run


def together(datasets: int, seeds: int) -> Run:
    """G3: fifteen methods against one baseline, flipped together."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G3", cell=f"D={datasets}, n={seeds}", studies=studies)
        weights = weights_of(strata_of(datasets, seeds)).reshape(datasets, seeds)
        rng, hits = generator(seed, 3, datasets, seeds, 1), []
        for _ in range(studies):
            runs = noise.runs(rng, 1, METHODS + 1, datasets, seeds)[0]
            terms = ((runs[:-1] - runs[-1:]) * weights).reshape(METHODS, -1)
            hits.append(bool((max_t(terms, seed=0, flips=FLIPS) <= 0.05).any()))
        return [at.error(f"max-T with common flips, {METHODS} methods", hits)]

    return run


def front(points: int, seeds: int, place: str) -> Run:
    """G7: a sweep along a quarter circle, both tasks better outwards, and a method somewhere near it.

    ``point``: where a sweep point is; ``between``: on the front half-way between two; ``inside``: within by one
    standard deviation of a run's score; ``beyond``: two outside, under the preference that is declared.
    """
    angles = np.linspace(0.0, math.pi / 2, points)
    gap = angles[1] / 2
    angle = angles[points // 2] + (gap if place == "between" else 0.0)
    preference = np.array([math.sin(angle), math.cos(angle)])
    preference = preference / preference.sum()
    score_sd = SIGMA * float(np.linalg.norm(preference))
    out = {"inside": -1.0, "beyond": 2.0}.get(place, 0.0) * score_sd / float(np.linalg.norm(preference))
    sweep = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    weights = [normalised(x) for x in sweep]
    method = (1 + out) * np.array([math.sin(angle), math.cos(angle)])

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G7", cell=f"K={points}, n={seeds}, {place}", studies=studies)
        rng = generator(seed, 7, points, seeds, ("point", "between", "inside", "beyond").index(place))
        grid: list[bool] = []
        bare: list[bool] = []
        naive: list[bool] = []
        for _ in range(studies):
            drawn = SIGMA * noise.runs(rng, 1, points + 1, 2, seeds)[0]  # [points + 1, tasks, seeds]
            runs = np.concatenate([sweep, method[None]])[:, :, None] + drawn
            scores = np.einsum("ptn,t->pn", runs, preference)
            tests = tuple(FlipTest.of(list(scores[-1] - s), [0] * seeds, 0, FLIPS) for s in scores[:-1])
            test = FrontTest((tests,), (tests[int(scores[:-1].mean(axis=1).argmax())],))
            eps = bulge(
                [Point(f"{i}", w, float(s.mean())) for i, (w, s) in enumerate(zip(weights, scores, strict=False))]
            )
            hardest = test.chosen[0]  # its p is at most the largest over the points, which is the front's
            for hits, theta in ((grid, eps or 0.0), (bare, 0.0)):
                hits.append(hardest.above(theta) <= 0.05 and test.above(theta) <= 0.05)
            naive.append(bool(non_dominated(runs.mean(axis=2), True)[-1]))
        shown = at.rate("the same without the grid's bulge (shown)", bare, 1.0)
        if place == "beyond":
            return [at.power("beats the sweep by more than its bulge", grid, 0.85), shown]
        control = at.error("mean point not dominated by any mean", naive, control=place != "inside")
        found = [at.error("beats the sweep by more than its bulge", grid), shown]
        return [*found, control] if place != "inside" else found

    return run
