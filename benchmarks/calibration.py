"""Simulate thousands of studies with a known truth, judge them, and print how often the answers are wrong.

    python benchmarks/calibration.py                          every goal, 5,000 studies a cell
    python benchmarks/calibration.py --studies 2000 --only G7
    python benchmarks/calibration.py --markdown docs/calibration.md
    python benchmarks/calibration.py --refit STUDY_OR_STORE   the noise of its final runs; then the same goals under it

Rules and practices are measured by the same harness with the same noise; what judges is mtlfleet_analysis itself. A row
is wrong (exit code 1) when a rule of ours leaves its limit, or a negative control keeps to it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from mtlfleet_analysis.calibration import Experiment, Finding, Noise, experiments, fit

TITLES = {
    "G1": "False positives, these datasets",
    "G2": "False positives, other datasets",
    "G3": "Family-wise error",
    "G4": "Coverage of the 95 % interval",
    "G5": "Equivalence, non-inferiority and no-better-than at the margin",
    "G6": "Sequential error",
    "G7": "Claims against a front",
    "G8": "Diverged runs",
    "G9": "Errors of the verdict",
    "G10": "Power",
    "G12": "What must not matter",
    "G13": "Speed",
    "G14": "Common practices, which must fail",
}
INTRO = """# Calibration

Simulated studies whose truth is known, judged by the functions that judge real ones: how often is the answer wrong?
Printed by `python benchmarks/calibration.py --markdown docs/calibration.md`; `make test` runs a short form of it with
the same limits, widened by 3.1 standard errors of the smaller number of studies.

An error rate of 0.05 may be measured as 0.0597 at most (two standard errors at 2,000 studies), an interval must cover
0.94 at least. **Negative controls** are common practices put through the same harness: it has to find them wanting.
"""


def work(task: tuple[int, Noise, int, int]) -> tuple[list[Finding], float]:
    index, noise, studies, seed = task
    start = time.process_time()
    found = experiments()[index].findings(noise, studies, seed)
    return found, time.process_time() - start


def measure(
    chosen: Sequence[tuple[int, Experiment]], noise: Noise, studies: int, seed: int, jobs: int
) -> Iterator[tuple[list[Finding], float]]:
    """The findings so far, and the CPU seconds they took; again after each experiment, the dear ones last."""
    tasks = [(i, noise, studies, seed) for i, _ in chosen]
    found: list[Finding] = []
    spent = 0.0
    with ProcessPoolExecutor(jobs) as pool:
        for (_, experiment), (some, seconds) in zip(chosen, pool.map(work, tasks), strict=True):
            found += some
            spent += seconds
            for f in some:
                print(f"{experiment.goal:4} {f.cell:34} {f.what:48} {f.found:7.4f} {limit(f):9} {word(f)}", flush=True)
            yield found, spent


def limit(f: Finding) -> str:
    if f.at_most and f.limit >= 1.0 and f.goal != "G13":
        return ""
    return f"{'≤' if f.at_most else '≥'} {f.limit:.4g}"


def word(f: Finding) -> str:
    if f.control:
        return "fails, as it should" if f.fine else "WRONG: the harness did not notice"
    return "ok" if f.fine else "WRONG"


def table(found: Iterable[Finding]) -> list[str]:
    lines = ["| what | cell | studies | found | limit | |", "|---|---|---|---|---|---|"]
    return lines + [f"| {f.what} | {f.cell} | {f.studies:,} | {f.found:.4g} | {limit(f)} | {word(f)} |" for f in found]


def markdown(found: Sequence[Finding], noise: Noise, spent: float, command: str) -> str:
    parts = [INTRO]
    model = ", ".join(f"{k} {v:g}" if not isinstance(v, bool) else f"{k} {v}" for k, v in asdict(noise).items())
    parts.append(f"Noise of the simulated runs (an assumption unless refitted, see below): {model}.\n")
    wrong = sum(not f.fine for f in found)
    parts.append(
        f"{len(found)} rates, {sum(f.control for f in found)} of them of negative controls; {wrong} out of line. "
        f"CPU time {spent / 60:.0f} minutes (`{command}`).\n"
    )
    for goal in (g for g in TITLES if any(f.goal == g for f in found)):
        parts += [f"## {goal}: {TITLES[goal]}\n", *table(f for f in found if f.goal == goal), ""]
    return "\n".join(parts)


def refitted(where: str) -> Noise:
    """The noise of a store's final runs, printed."""
    from mtlfleet.cli.claims import asked_for
    from mtlfleet_analysis.loading import from_store

    asked, store = asked_for(where)
    found = fit(from_store(asked, store))
    print(f"noise of {asked.name}: {found.methods} methods, {found.seeds} seeds")
    for place, sd in found.sd.items():
        print(f"  {place:32} sd of a run's average percent change {sd:.3g} pp")
    print(f"  rho {found.rho:.3f}   tau {found.tau:.3f} sd   excess kurtosis {found.kurtosis:.2f}")
    noise = found.noise()
    print(f"  simulated from here on: rho {noise.rho:.3f}, tau {noise.tau:.3f}, t({noise.tail:.3g}) tails\n")
    return replace(noise)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--only", default="", help="goals, G1,G7")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--refit", default="", metavar="STUDY")
    given = parser.parse_args()
    noise = refitted(given.refit) if given.refit else Noise()
    goals = set(given.only.split(",")) if given.only else set(TITLES)
    order = list(TITLES)
    chosen = sorted(
        ((i, e) for i, e in enumerate(experiments()) if e.goal in goals),
        key=lambda x: (x[1].most is not None, x[1].goal in ("G3", "G8"), order.index(x[1].goal), x[0]),
    )
    command = "python benchmarks/calibration.py " + " ".join(a for a in sys.argv[1:] if a != str(given.markdown))
    command = command.replace(" --markdown", "").strip()
    found: list[Finding] = []
    spent = 0.0
    for found, spent in measure(chosen, noise, given.studies, given.seed, given.jobs):
        if given.markdown:
            given.markdown.write_text(markdown(found, noise, spent, command), encoding="utf-8")
    wrong = [f for f in found if not f.fine]
    print(f"\n{len(found)} rates, {len(wrong)} out of line; {spent / 60:.1f} CPU minutes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
