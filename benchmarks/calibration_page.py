"""What calibration.py measured, as a page: one row a goal, then every rate with its Monte-Carlo error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtlfleet_analysis.calibration import Finding

ASSUMED = "assumed"
GOALS = {
    "G1": "False positives, claims about these datasets",
    "G2": "False positives, claims about other datasets",
    "G3": "Family-wise error of fifteen claims",
    "G4": "Coverage of the 95 % interval",
    "G5": "Equivalence, non-inferiority and no-better-than at the margin",
    "G6": "Error of looking more than once, and its price in power",
    "G7": "Claims against a front: false support, and power",
    "G8": "False support where a method's worst runs diverge",
    "G9": "False verdicts of either kind",
    "G10": "Power",
    "G11": "Published examples reproduced",
    "G12": "What must not matter does not",
    "G13": "Speed",
    "G14": "Common practices are found wanting",
}
INTRO = """# Calibration

Simulated studies whose truth is known, judged by the functions that judge real ones: how often is the answer wrong?
Written by `python benchmarks/calibration.py --markdown docs/calibration.md`, which keeps every experiment in
`docs/calibration.json` and goes on where it was stopped; nothing on this page is written by hand. `make test` runs a
short form with the same limits, widened by 3.1 standard errors of its smaller number of studies.

An error rate of 0.05 may be measured as 0.0597 at most (two standard errors at 2,000 studies), an interval must cover
0.94 at least. ± is one Monte-Carlo standard error. **Negative controls** are common practices put through the same
harness: it has to find them wanting, and a goal whose controls pass is not met.

Two thousand studies a cell was the rule. Where some of a goal's rates came out over their limit at that number, the
goal was measured again with 5,000, all its cells and not those alone. The tables show the second measurement; what was
over its limit in the first is listed under the summary, with both numbers.
"""


def findings(section: Mapping[str, Any]) -> list[Finding]:
    return [Finding(**f) for e in section["experiments"].values() for f in e["findings"]]


def limit(f: Finding) -> str:
    return f"{'≤' if f.at_most else '≥'} {f.limit:.4g}" if f.limited else ""


def value(f: Finding) -> str:
    return f"{f.found:.3g}" if f.goal in ("G11", "G13") else f"{f.found:.4f} ± {f.error:.4f}"


def word(f: Finding) -> str:
    if f.control:
        return "fails, as it should" if f.fine else "WRONG: the harness did not notice"
    if not f.limited:
        return ""
    return "ok" if f.fine else "WRONG"


def line(f: Finding) -> str:
    return f"{f.goal:4} {f.cell:34} {f.what:48} {value(f):17} {limit(f):9} {word(f)}"


def _distance(f: Finding) -> float:
    """How far inside its limit, in standard errors."""
    return (f.limit - f.found if f.at_most else f.found - f.limit) / (f.error or 1.0)


def _goal(goal: str, section: Mapping[str, Any], planned: Sequence[str]) -> str:
    cells = [name for name in planned if name.split()[0] == goal]
    done = [name for name in cells if name in section["experiments"]]
    found = [Finding(**f) for name in done for f in section["experiments"][name]["findings"]]
    rules = [f for f in found if f.limited and not f.control]
    controls = [f for f in found if f.control]
    caught = sum(f.fine for f in controls)
    worst = min(rules, key=_distance) if rules else None
    measured = f"{value(worst)} ({worst.what}; {worst.cell})" if worst else "controls only" if found else "not measured"
    over = sum(not f.fine for f in rules)
    if len(done) < len(cells):
        met = f"not measured whole: {len(done)} of {len(cells)} experiments"
    else:
        met = "met" if not over and caught == len(controls) else "**not met**"
    least = f"{min(f.studies for f in found):,}" if found else ""
    return (
        f"| {goal} | {GOALS[goal]} | {least} | {measured} | {limit(worst) if worst else ''} | {over} of {len(rules)} | "
        f"{f'{caught} of {len(controls)}' if controls else ''} | {met} |"
    )


def summary(section: Mapping[str, Any], planned: Sequence[str], goals: Iterable[str] = GOALS) -> list[str]:
    """One row a goal: the rate that comes closest to its limit, and whether the goal is met."""
    return [
        "| goal | | fewest studies a cell | nearest its limit or beyond it | limit | over | controls caught ||",
        "|---|---|---|---|---|---|---|---|",
        *(_goal(goal, section, planned) for goal in goals),
        "",
    ]


def _natural(cell: str) -> list[tuple[int, str]]:
    """n=5 before n=10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", cell)]


def _table(found: Sequence[Finding]) -> list[str]:
    lines = ["| what | cell | studies | found | limit | |", "|---|---|---|---|---|---|"]
    return lines + [f"| {f.what} | {f.cell} | {f.studies:,} | {value(f)} | {limit(f)} | {word(f)} |" for f in found]


def _noise(section: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" for k, v in section["noise"].items() if not isinstance(v, bool))


def _cost(section: Mapping[str, Any]) -> str:
    found = findings(section)
    minutes = sum(e["cpu_s"] for e in section["experiments"].values()) / 60
    return (
        f"{len(found)} rates, {sum(f.control for f in found)} of them of negative controls; "
        f"{sum(not f.fine for f in found)} out of line. CPU time {minutes:.1f} minutes, seed {section['seed']}."
    )


def _earlier(section: Mapping[str, Any]) -> list[str]:
    """What was out of line in a run of other size, which the present one replaced."""
    before = [Finding(**f) for e in section["experiments"].values() for f in e.get("earlier", []) if f["goal"] != "G11"]
    if not before:
        return []
    wrong = [f for f in before if not f.fine]
    sizes = ", ".join(f"{n:,}" for n in sorted({f.studies for f in before}))
    honest = sum(f.limited and not f.control for f in before)
    said = (
        f"An earlier run ({sizes} studies a cell) measured {honest} of these rates, {len(wrong)} of them out of line."
    )
    return [
        f"{said} Of rates at 0.05 exactly, one in forty is, at two standard errors.",
        "",
        *(f"* {f.goal}, {f.what}, {f.cell}: {value(f)}, limit {limit(f)}{_now(f, section)}" for f in wrong),
        "",
    ]


def _now(f: Finding, section: Mapping[str, Any]) -> str:
    """The same rate as it was measured last."""
    again = [g for g in findings(section) if (g.goal, g.what, g.cell) == (f.goal, f.what, f.cell)]
    return "".join(f"; with {g.studies:,} studies {value(g)}" for g in again)


def _refitted(name: str, section: Mapping[str, Any], assumed: Mapping[str, Any], planned: Sequence[str]) -> list[str]:
    """The noise of a real study beside the assumed one, its verdicts, and the goals under its noise."""
    fitted, mine, theirs = section["fitted"], section["noise"], assumed["noise"]
    sds = "; ".join(f"{place} {sd:.3g}" for place, sd in sorted(fitted["sd"].items()))
    lines = [
        f"## Noise refitted to the runs of `{name}`",
        "",
        f"{fitted['methods']} methods, {fitted['seeds']} seeds. Excess kurtosis {fitted['kurtosis']:.2f} (of t(5): 6).",
        f"Standard deviation of a run's average percent change, in percentage points: {sds}.",
        "",
        "| parameter | assumed | refitted |",
        "|---|---|---|",
        f"| rho: share of variance common to methods of one seed | {theirs['rho']:.3g} | {fitted['rho']:.3f} |",
        f"| tau: sd over places of a true contrast, in run sd | {theirs['tau']:.3g} | {fitted['tau']:.3f} |",
        f"| tail: degrees of freedom | {theirs['tail']:.3g} | {mine['tail']:.3g} |",
        "",
        *(
            f"* `{claim}`: **{verdict}**{f' ({label})' if label else ''}. {text}"
            for claim, verdict, label, text in section["verdicts"]
        ),
        "",
    ]
    some = [goal for goal in GOALS if any(f.goal == goal for f in findings(section))]
    if some:
        lines += [
            f"The goals under this noise. {_cost(section)}",
            "",
            *summary(section, planned, some),
            *_earlier(section),
        ]
    return lines


def markdown(book: Mapping[str, Any], planned: Sequence[str]) -> str:
    parts = [INTRO]
    assumed = book.get(ASSUMED)
    if assumed:
        parts += [f"Noise of the simulated runs, an assumption: {_noise(assumed)}. {_cost(assumed)}", ""]
        parts += ["## The goals", "", *summary(assumed, planned), *_earlier(assumed)]
        parts += [line for n, s in sorted(book.items()) if n != ASSUMED for line in _refitted(n, s, assumed, planned)]
        found = sorted(findings(assumed), key=lambda f: (f.what, _natural(f.cell)))
        for goal in (g for g in GOALS if any(f.goal == g for f in found)):
            parts += [f"## {goal}: {GOALS[goal]}", "", *_table([f for f in found if f.goal == goal]), ""]
    return "\n".join(parts)
