"""What the page says, as plain values: every number already a string, every figure already drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from mtlfleet_analysis.evidence import Evidence, Run, Twins
from mtlfleet_analysis.leaderboard import Entry, leaderboard
from mtlfleet_analysis.readings import changes, tradeoffs
from mtlfleet_analysis.report import claim_figures, method_figures, queries
from mtlfleet_analysis.report.cards import Figure, card
from mtlfleet_analysis.report.palette import badge
from mtlfleet_analysis.report.svg import clean, draw
from mtlfleet_analysis.sentences import number, p_text, short_unit, signed
from mtlfleet_analysis.verdict import Verdict


def content(evidence: Evidence, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All variables of ``page.html``."""
    sweeps = {name for v in verdicts for name in v.claim.baseline.best_of}
    return {
        "title": evidence.title or evidence.study,
        "study": evidence.study,
        "summary": _summary(evidence),
        "cards": [card(evidence, v, i) for i, v in enumerate(verdicts)],
        "tally": _tally(verdicts),
        "forests": _forests(verdicts),
        "board": _board(evidence),
        "twins": _twins(evidence),
        "tradeoffs": _tradeoffs(evidence, sweeps),
        "heats": _heats(evidence),
        "failures": _failures(evidence),
        "budget": _budget(evidence),
        "sensitivity": _sensitivity(verdicts),
        "provenance": _provenance(evidence, verdicts),
    }


def _summary(evidence: Evidence) -> list[tuple[str, str]]:
    final = evidence.phase("final")
    ended = sum(r.state in ("done", "diverged", "oom") for r in final)
    facts = [
        (str(len(evidence.methods)), "methods"),
        (str(len(evidence.datasets)), "datasets"),
        (str(len(evidence.architectures)), "architectures"),
        (str(len(evidence.seeds)), "seeds"),
        (f"{ended}/{len(final)}", "final runs ended"),
        (str(sum(r.attempts > 0 for r in evidence.phase("tune"))), "tuning runs"),
    ]
    return [(n, word[:-1] if n == "1" and word.endswith("s") else word) for n, word in facts]


def _tally(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    found: dict[str, int] = {}
    for v in verdicts:
        found[v.title] = found.get(v.title, 0) + 1
    looks = {v.title: badge(v.verdict, v.label) for v in verdicts}
    return [{"count": str(n), "title": t, "glyph": looks[t][0], "look": looks[t][1]} for t, n in found.items()]


def _forests(verdicts: Sequence[Verdict]) -> list[Figure]:
    found: list[Figure] = []
    measured = [v for v in verdicts if v.effect is not None and v.verdict != "invalid"]
    for i, unit in enumerate(dict.fromkeys(v.unit for v in measured)):
        rows = [v for v in measured if v.unit == unit]
        names = [f"{v.claim_id} {badge(v.verdict, v.label)[0]}" for v in rows]
        svg = draw(
            claim_figures.forest(rows, names), f"forest{i}", f"Effects of {len(rows)} claims with 95 % intervals"
        )
        found.append(Figure(svg, "Effect with 95 % interval; the band is each claim's margin around zero."))
    return found


def _board(evidence: Evidence) -> dict[str, Any]:
    board = leaderboard(evidence)
    shown = [e for e in board.entries if e.mean is not None]
    values = [x for e in shown for x in (e.low, e.high, e.mean) if x is not None and math.isfinite(x)]
    low, high = (min([0.0, *values]), max([0.0, *values])) if values else (0.0, 1.0)
    span = (high - low) or 1.0

    def at(x: float | None) -> str:
        return f"{4 + 152 * ((x if x is not None and math.isfinite(x) else 0.0) - low) / span:.1f}"

    def row(e: Entry) -> dict[str, Any]:
        known = e.low is not None and math.isfinite(e.low)
        return {
            "method": evidence.label(e.method),
            "mark": "●" if e.separated is False else "",
            "mean": signed(e.mean) if e.mean is not None else "no result yet",
            "ci": f"[{number(e.low)}, {number(e.high)}]" if known else "",
            "has": e.mean is not None,
            "known": known,
            "x": at(e.mean),
            "x1": at(e.low),
            "x2": at(e.high),
            "rank": number(e.mean_rank, 2) if e.mean_rank is not None else "",
            "runs": f"{e.runs}" + (f" of {e.runs + e.owed}" if e.owed else ""),
            "failures": str(e.failures) if e.failures else "",
            "tuning": str(e.budget.tuning_trials),
            "hours": seconds(e.budget.tuning_device_s + e.budget.final_device_s),
            "reference": e.reference,
        }

    return {
        "rows": [row(e) for e in board.entries],
        "zero": at(0.0),
        "any": bool(shown),
        "external": [
            {
                "method": e.method,
                "dataset": evidence.label(e.dataset),
                "mean": signed(e.improvement),
                "source": clean(e.source, 200),
                "recomputed": e.recomputed,
            }
            for e in evidence.external
        ],
        "sql": queries.leaderboard(evidence.study),
    }


def _twins(evidence: Evidence) -> dict[str, Any]:
    """One sentence for each pair of methods that did the same in all their runs."""

    def sentence(t: Twins) -> str:
        where = evidence.label(t.dataset)
        if len(evidence.architectures) > 1:
            where += f" · {evidence.label(t.architecture)}"
        runs = f"{t.runs} {'tuning' if t.phase == 'tune' else 'final'} run{'s' if t.runs != 1 else ''}"
        return f"{evidence.label(t.method)} and {evidence.label(t.twin)} on {where}: all {runs} compared"

    return {"rows": [sentence(t) for t in evidence.twins], "sql": queries.twins(evidence.study)}


def seconds(value: float) -> str:
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def _tradeoffs(evidence: Evidence, sweeps: Iterable[str]) -> list[Figure]:
    found: list[Figure] = []
    names = [evidence.label(m) for m in evidence.methods]
    for i, t in enumerate(tradeoffs(evidence, sweeps)):
        title = t.dataset if len(evidence.architectures) == 1 else f"{t.dataset} · {t.architecture}"
        spec = (method_figures.pareto if len(t.tasks) == 2 else method_figures.parallel)(
            t, list(evidence.methods), title
        )
        svg = draw(spec, f"front{i}", f"Trade-off between {len(t.tasks)} tasks of {t.dataset} for {len(names)} methods")
        caption = (
            "Validation. Line: configurations a baseline tried. Crosses: seeds of the final runs. Discs: their means. "
            "Up and right is better."
            if len(t.tasks) == 2
            else "Validation, mean over seeds; each axis runs from the worst to the best method. Up is better."
        )
        found.append(Figure(svg, caption))
    return found


def _heats(evidence: Evidence) -> list[Figure]:
    found: list[Figure] = []
    everything = changes(evidence)
    for i, place in enumerate(dict.fromkeys((c.dataset, c.architecture) for c in everything)):
        here = [c for c in everything if (c.dataset, c.architecture) == place]
        title = place[0] if len(evidence.architectures) == 1 else " · ".join(place)
        methods = [m for m in evidence.methods if any(c.method == m for c in here)]
        svg = draw(
            method_figures.heat(here, methods, title), f"heat{i}", f"Change against single-task learning on {place[0]}"
        )
        found.append(
            Figure(
                svg,
                "Percent against single-task learning on test; positive is better. Pale: the interval covers zero.",
            )
        )
    return found


def _failures(evidence: Evidence) -> dict[str, Any]:
    bad = [r for r in evidence.runs if r.state not in ("done", "running", "missing")]
    by_cause: dict[str, list[Run]] = {}
    for run in bad:
        by_cause.setdefault(run.state, []).append(run)
    meaning = {
        "diverged": "an outcome, scored worst",
        "oom": "an outcome, scored worst",
        "failed": "owed: fix, then `resume --failed`",
        "lost": "owed: re-run with the same seed",
        "interrupted": "owed: continues on the next launch",
    }
    owed = sum(r.state in ("missing", "running") for r in evidence.runs)
    return {
        "rows": [
            {
                "cause": cause,
                "count": str(len(runs)),
                "meaning": meaning.get(cause, ""),
                "examples": [{"label": r.label or r.trial, "reason": clean(r.reason, 300)} for r in runs[:5]],
            }
            for cause, runs in sorted(by_cause.items())
        ],
        "owed": owed,
        "sql": queries.failures(evidence.study),
    }


def _budget(evidence: Evidence) -> dict[str, Any]:
    entries = {e.method: e for e in leaderboard(evidence).entries}
    rows = []
    for method in evidence.methods:
        b = entries[method].budget
        rows.append(
            {
                "method": evidence.label(method),
                "tuning": str(b.tuning_trials),
                "tuning_time": seconds(b.tuning_device_s),
                "final": str(b.final_runs),
                "final_time": seconds(b.final_device_s),
            }
        )
    return {"rows": rows, "sql": queries.budget(evidence.study)}


def _sensitivity(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [
        {
            "id": v.claim_id,
            "fragile": v.fragile,
            "unit": short_unit(v.unit),
            "rows": [
                {
                    "analysis": "as registered",
                    "effect": signed(v.effect),
                    "p": p_text(v.p_value),
                    "verdict": v.detail["would_be"],
                    "differs": False,
                },
                *(
                    {
                        "analysis": r["analysis"],
                        "effect": signed(r["effect"]),
                        "p": p_text(r["p"]),
                        "verdict": r["verdict"],
                        "differs": r["verdict"] != v.detail["would_be"],
                    }
                    for r in v.detail["sensitivity"]
                ),
            ],
        }
        for v in verdicts
        if v.effect is not None
    ]


def _provenance(evidence: Evidence, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "facts": [
            ("study", evidence.study),
            ("study hash", evidence.sha256),
            *((f"{name} version", version) for name, version in sorted(evidence.versions.items())),
            *((f"registration of {v.claim_id}", v.detail["registration"]) for v in verdicts),
        ],
        "trials": [
            {"id": r.trial, "label": r.label, "state": r.state, "settings": _settings(r)}
            for r in evidence.phase("final")
        ],
        "sql": queries.trials(evidence.study),
    }


def _settings(run: Run) -> str:
    try:
        raw = json.loads(run.params)
    except ValueError:
        return run.params
    return ", ".join(f"{k}={v}" for k, v in sorted(raw.items())) if isinstance(raw, dict) else run.params
