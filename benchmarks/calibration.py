"""Simulate thousands of studies with a known truth, judge them, and print how often the answers are wrong.

    python benchmarks/calibration.py                          every goal, 5,000 studies a cell; prints only
    python benchmarks/calibration.py --studies 2000 --only G7
    python benchmarks/calibration.py --markdown docs/calibration.md     also written there, results kept in its .json
    python benchmarks/calibration.py --refit STUDY_OR_STORE   the noise of its final runs; then the same goals under it
    python benchmarks/calibration.py --refit NAME --markdown …    goes on under the noise of a study kept there already

Rules and practices are measured by the same harness with the same noise; what judges is mtlfleet_analysis itself. With
``--markdown`` every experiment is kept as it ends: a run that is stopped goes on where it was, ``--only`` adds to what
is there, other ``--studies`` measure anew and leave what was found before on the page where it was out of line, and a
change of the seed or of the noise throws away what was measured under another (``--again``: all of it;
needed after a change of the code that is measured). Exit code 1: a rule of ours leaves its limit, or a negative
control keeps to it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import calibration_page as page

from mtlfleet_analysis.calibration import Experiment, Finding, Noise, experiments, fit

FIXTURES = "tests/unit/analysis/golden_stats"
FIRST = ("G8", "G9", "G3", "G12", "G11")  # what takes longest


def fixtures(noise: Noise, studies: int, seed: int) -> list[Finding]:  # noqa: ARG001
    """G11: the published examples, recomputed by the public functions; a share of tests, not of studies."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", FIXTURES]
        subprocess.run(asked, cwd=root, check=False, stdout=subprocess.DEVNULL)  # what failed is counted below
        cases = list(ElementTree.parse(report).iter("testcase"))
    passed = sum(len(case) == 0 for case in cases)  # a child says failure, error or skipped
    return [
        Finding(goal="G11", what=f"tests of {FIXTURES} that pass", cell="published values", found=passed / len(cases),
                limit=1.0, at_most=False, studies=len(cases))
    ]  # fmt: skip


EXPERIMENTS = (*experiments(), Experiment(goal="G11", cell="fixtures", run=fixtures))


def work(task: tuple[int, Noise, int, int]) -> tuple[list[Finding], float]:
    index, noise, studies, seed = task
    before = os.times()
    found = EXPERIMENTS[index].findings(noise, studies, seed)
    return found, sum(os.times()[:4]) - sum(before[:4])


def measure(
    chosen: Sequence[int], noise: Noise, studies: int, seed: int, jobs: int
) -> Iterator[tuple[Experiment, list[Finding], float]]:
    """Each experiment with its findings and CPU seconds, in order."""
    tasks = [(i, noise, studies, seed) for i in chosen]
    if jobs == 1:
        yield from ((EXPERIMENTS[i], *work(task)) for i, task in zip(chosen, tasks, strict=True))
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from ((EXPERIMENTS[i], *done) for i, done in zip(chosen, pool.map(work, tasks), strict=True))


def refitted(where: str) -> tuple[str, Noise, dict[str, Any]]:
    """The noise of a store's final runs, printed; the study's name, and what there is to keep."""
    from mtlfleet.cli.claims import asked_for
    from mtlfleet_analysis.judging import judge_evidence
    from mtlfleet_analysis.loading import from_store

    asked, store = asked_for(where)
    evidence = from_store(asked, store)
    found = fit(evidence)
    print(f"noise of {asked.name}: {found.methods} methods, {found.seeds} seeds")
    for place, sd in found.sd.items():
        print(f"  {place:32} sd of a run's average percent change {sd:.3g} pp")
    print(f"  rho {found.rho:.3f}   tau {found.tau:.3f} sd   excess kurtosis {found.kurtosis:.2f}")
    noise = found.noise()
    print(f"  simulated from here on: rho {noise.rho:.3f}, tau {noise.tau:.3f}, t({noise.tail:.3g}) tails")
    verdicts = judge_evidence(evidence, asked.claims)
    for v in verdicts:
        print(f"  {v.claim.id}: {v.verdict}. {v.sentence}")
    print()
    kept = {"fitted": asdict(found), "verdicts": [[v.claim.id, v.verdict, v.label, v.sentence] for v in verdicts]}
    return asked.name, noise, kept


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--only", default="", help="goals, G1,G7; none: only refit, or write the page anew")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--again", action="store_true", help="measure what is kept already once more")
    parser.add_argument("--refit", default="", metavar="STUDY")
    return parser.parse_args()


def order(index: int) -> tuple[bool, int, int]:
    goal = EXPERIMENTS[index].goal
    return goal not in FIRST, int(goal[1:]), index


def main() -> int:
    given = arguments()
    file = given.markdown.with_suffix(".json") if given.markdown else None
    book = json.loads(file.read_text("utf-8")) if file and file.exists() else {}
    study, noise, kept = page.ASSUMED, Noise(), {}
    if given.refit in book:
        study, noise = given.refit, Noise(**book[given.refit]["noise"])
    elif given.refit:
        study, noise, kept = refitted(given.refit)
    section = book.setdefault(study, {"experiments": {}})
    if (section.get("noise"), section.get("seed")) != (asdict(noise), given.seed) or given.again:
        section["experiments"] = {}
    section |= {"noise": asdict(noise), "seed": given.seed, **kept}
    goals = set(given.only.split(",")) if given.only else set(page.GOALS)
    chosen = [
        i
        for i, e in sorted(enumerate(EXPERIMENTS), key=lambda x: order(x[0]))
        if e.goal in goals
        and section["experiments"].get(f"{e.goal} {e.cell}", {}).get("studies") != e.number(given.studies)
    ]
    start = time.time()
    for experiment, found, seconds in measure(chosen, noise, given.studies, given.seed, given.jobs):
        for f in found:
            print(page.line(f), flush=True)
        name = f"{experiment.goal} {experiment.cell}"
        before = section["experiments"].get(name, {})
        section["experiments"][name] = {
            "earlier": before.get("earlier", []) + before.get("findings", []),
            "studies": experiment.number(given.studies),
            "cpu_s": round(seconds, 2),
            "findings": [asdict(f) for f in found],
        }
        save(given.markdown, book)
    save(given.markdown, book)
    everything = page.findings(section)
    wrong = [f for f in everything if not f.fine]
    spent = f"{time.time() - start:.0f} s for {len(chosen)} experiments"
    print(f"\n{len(everything)} rates, {len(wrong)} out of line; {spent}")
    return 1 if wrong else 0


def save(markdown: Path | None, book: dict[str, Any]) -> None:
    if markdown:
        planned = [f"{e.goal} {e.cell}" for e in EXPERIMENTS]
        markdown.with_suffix(".json").write_text(json.dumps(book, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        markdown.write_text(page.markdown(book, planned), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
