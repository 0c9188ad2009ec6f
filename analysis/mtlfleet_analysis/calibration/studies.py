"""Experiments on whole studies: simulated runs go through pairing, guards, scoring and verdict like real ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mtlfleet.plan.claims import Baseline, Claim, Estimand
from mtlfleet.plan.tasks import Direction
from mtlfleet_analysis.calibration.findings import Finding, Measure
from mtlfleet_analysis.calibration.noise import Noise
from mtlfleet_analysis.calibration.rules import METHODS, generator, strata_of
from mtlfleet_analysis.decision import ShiftTest
from mtlfleet_analysis.evidence import Evidence, Run
from mtlfleet_analysis.judging import decisions, judge_evidence
from mtlfleet_analysis.multiplicity import holm
from mtlfleet_analysis.pairing import swapped
from mtlfleet_analysis.signflip import FLIPS, sign_flip_test
from mtlfleet_analysis.simulation import Design, simulate

Runs = Callable[[Noise, int, int], list[Finding]]
CLAIM = Claim(id="c", method="mto", baseline=Baseline(best_of=("ls",)), margin=0.5)
RAW = replace(CLAIM, estimand=Estimand(kind="metric", task="left", metric="error"), margin=0.001)


def _study(noise: Noise, datasets: int, seeds: int, seed: int, effect: float = 0.0) -> Evidence:
    design = Design(
        effects={"ls": 0.0, "mto": effect},
        datasets=tuple(f"d{i}" for i in range(datasets)),
        seeds=tuple(range(seeds)),
        tuning_seeds=(901,),
        shared=noise.rho,
    )
    return simulate(design, seed, [CLAIM])


def _answer(evidence: Evidence) -> str:
    return decisions(evidence, [CLAIM])[0].reached[0].answer


def _mean_error(run: Run) -> float:
    found = [v for (split, _, _), v in run.values.items() if split == "test"]
    return math.fsum(found) / len(found)


def worst_diverge(evidence: Evidence, method: str, share: float) -> Evidence:
    """The same study in which the worst ``share`` of a method's final runs on each dataset diverged."""
    lost: set[str] = set()
    for dataset in evidence.datasets:
        runs = [r for r in evidence.phase("final") if (r.method, r.dataset) == (method, dataset)]
        lost |= {r.trial for r in sorted(runs, key=_mean_error)[len(runs) - round(share * len(runs)) :]}
    return replace(
        evidence,
        runs=tuple(
            replace(r, state="diverged", values={}, test_reads=0) if r.trial in lost else r for r in evidence.runs
        ),
    )


def divergence(datasets: int, seeds: int, share: float) -> Runs:
    """G8: a method that is the baseline's equal, except that its worst runs diverge."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G8", cell=f"D={datasets}, n={seeds}, {share:.0%} diverge", studies=studies)
        scored, dropped = [], []
        for i in range(studies):
            evidence = worst_diverge(_study(noise, datasets, seeds, seed * 1_000_003 + i), "mto", share)
            judged = decisions(evidence, [CLAIM])[0]
            scored.append(judged.reached[0].answer == "supported")
            whole = [p for p in judged.case.questions[-1].focus.pairs if not p.imputed]
            p = sign_flip_test([p.difference for p in whole], [p.stratum for p in whole], "greater", flips=FLIPS // 50)
            dropped.append(p.p_value <= 0.05)
        return [
            at.error("scored worst, whole path", scored),
            at.error("failed runs left out", dropped, control=True),
        ]

    return run


def whole_path(datasets: int, seeds: int) -> Runs:
    """G1 and G9 again, on whole studies: an A/A study is supported no more often than it may be."""

    def run(noise: Noise, studies: int, seed: int) -> list[Finding]:
        at = Measure(goal="G9", cell=f"D={datasets}, n={seeds}, whole path", studies=studies)
        none, margin = [], []
        for i in range(studies):
            address = seed * 1_000_003 + i
            none.append(_answer(_study(noise, datasets, seeds, address)) == "supported")
            margin.append(_answer(_study(noise, datasets, seeds, address, CLAIM.margin)) == "refuted")
        return [at.error("supported, no effect", none), at.error("refuted, effect at the margin", margin)]

    return run


def metamorphic(noise: Noise, studies: int, seed: int) -> list[Finding]:
    """G12: what must not change a verdict does not, and exchanging the arms mirrors it."""
    at = Measure(goal="G12", cell="D=2, n=6, whole path", studies=studies)
    again, mirror, scale, sign = [], [], [], []
    for i in range(studies):
        rng = generator(seed, 12, i)
        effect, unit = float(rng.normal(0, 2)), float(rng.uniform(0.01, 100))
        evidence = _study(noise, 2, 6, seed * 1_000_003 + i, effect)
        shuffled = replace(evidence, runs=tuple(evidence.runs[j] for j in rng.permutation(len(evidence.runs))))
        again.append(judge_evidence(evidence, [CLAIM])[0].to_json() == judge_evidence(shuffled, [CLAIM])[0].to_json())
        forth, back, scaled = (
            decisions(e, [c])[0].case
            for e, c in ((evidence, CLAIM), (evidence, swapped(CLAIM)), (_rescaled(evidence, unit), CLAIM))
        )
        mirror.append(_mirrored(forth.test, back.test))
        same = np.allclose(forth.test.limits(0.05), scaled.test.limits(0.05), rtol=1e-9, atol=1e-12)
        scale.append(forth.p == scaled.p and bool(same))
        turned = (decisions(e, [RAW])[0].case.p for e in (evidence, _rescaled(evidence, -1.0)))
        sign.append(len(set(turned)) == 1)
    names = {
        "judged again, rows in another order: same bytes": again,
        "arms exchanged: p and limits mirrored": mirror,
        "another unit: the same p and limits": scale,
        "direction and sign turned: the same p": sign,
    }
    return [at.rate(what, hits, 1.0, at_most=False) for what, hits in names.items()]


def _mirrored(forth: ShiftTest, back: ShiftTest) -> bool:
    """What the claim asks of theta, the claim with its arms exchanged asks of -theta."""
    asked = (-CLAIM.margin, 0.0, CLAIM.margin)
    low, high = back.limits(0.05)
    return all(forth.above(t) == back.below(-t) and forth.below(t) == back.above(-t) for t in asked) and bool(
        np.allclose(forth.limits(0.05), (-high, -low), rtol=1e-9, atol=1e-12)
    )


def _rescaled(evidence: Evidence, unit: float) -> Evidence:
    """The same study in another unit; under a negative one the metrics change their direction with their sign."""
    turned: dict[Direction, Direction] = {"min": "max", "max": "min", "none": "none"}
    return replace(
        evidence,
        runs=tuple(replace(r, values={k: unit * v for k, v in r.values.items()}) for r in evidence.runs),
        tasks=tuple(replace(t, chance=None if t.chance is None else unit * t.chance) for t in evidence.tasks),
        metrics=evidence.metrics
        if unit > 0
        else {k: replace(m, direction=turned[m.direction]) for k, m in evidence.metrics.items()},
    )


def speed(noise: Noise, studies: int, seed: int) -> list[Finding]:  # noqa: ARG001
    """G13: CPU seconds of a family of 15 methods, 10 datasets, 10 seeds, with all 99,999 flips of a verdict."""
    runs = noise.runs(generator(seed, 13), 1, METHODS + 1, 10, 10)[0]
    strata = strata_of(10, 10)
    start = time.process_time()
    holm([sign_flip_test((runs[m] - runs[-1]).ravel(), strata, "greater").p_value for m in range(METHODS)])
    spent = time.process_time() - start
    return [
        Finding(
            goal="G13", what="CPU seconds of the family's tests", cell="15 methods, D=10, n=10, 99,999 flips",
            found=spent, limit=5.0, at_most=True, studies=1,
        )
    ]  # fmt: skip
