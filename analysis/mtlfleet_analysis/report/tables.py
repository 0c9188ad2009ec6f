"""The page's tables as plain values: every number already a string, every row with what it was made from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from mtlfleet_analysis.evidence import Environment, Evidence, Run, Twins
from mtlfleet_analysis.leaderboard import Entry, leaderboard
from mtlfleet_analysis.report import queries
from mtlfleet_analysis.report.palette import badge
from mtlfleet_analysis.report.svg import clean
from mtlfleet_analysis.sentences import architectures, families, number, p_text, short_unit, signed
from mtlfleet_analysis.verdict import Verdict


def claim_table(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One row a claim: a reader who stops here is not misled."""
    rows = []
    for i, v in enumerate(verdicts):
        glyph, look = badge(v.verdict, v.label)
        known = v.ci_low is not None and math.isfinite(v.ci_low)
        rows.append(
            {
                "anchor": f"claim-{i + 1}",
                "id": v.claim_id,
                "glyph": glyph,
                "look": look,
                "verdict": v.title,
                "fragile": v.fragile,
                "effect": signed(v.effect) if v.effect is not None else "",
                "sort": "" if v.effect is None else f"{v.effect:.9g}",
                "unit": short_unit(v.unit),
                "ci": f"[{number(v.ci_low)}, {number(v.ci_high)}]" if known else "",
                "p": p_text(v.p_adjusted).removeprefix("p ").removeprefix("= ") if v.p_adjusted is not None else "",
                "p_sort": "" if v.p_adjusted is None else f"{v.p_adjusted:.9g}",
                "size": f"{v.detail['seeds']} × {v.n_datasets}{families(v)} × {architectures(v)}" if v.n_pairs else "",
                "power": "" if v.power is None else f"{v.power:.2f}",
                "guards": ", ".join(g.partition(": ")[0].replace("_", " ") for g in v.guards) or "none fired",
                "hash": v.sha256[:12],
            }
        )
    return rows


def board(evidence: Evidence) -> dict[str, Any]:
    found = leaderboard(evidence)
    shown = [e for e in found.entries if e.mean is not None]
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
            "sort": "" if e.mean is None else f"{e.mean:.9g}",
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
            "seconds": f"{e.budget.tuning_device_s + e.budget.final_device_s:.3f}",
            "reference": e.reference,
        }

    return {
        "rows": [row(e) for e in found.entries],
        "zero": at(0.0),
        "any": bool(shown),
        "sql": queries.leaderboard(evidence.study),
    }


def external(evidence: Evidence) -> dict[str, Any]:
    """Published numbers: one table a source and dataset, beside ours and never in a test."""
    tables = []
    for source, dataset in dict.fromkeys((x.source, x.dataset) for x in evidence.external):
        mine = [x for x in evidence.external if (x.source, x.dataset) == (source, dataset)]
        columns = list(dict.fromkeys((x.task, x.metric) for x in mine))
        found = {(x.method, x.task, x.metric): x.value for x in mine}
        rows = [
            {"method": m, "values": [number(found[m, *c], 4) if (m, *c) in found else "" for c in columns]}
            for m in dict.fromkeys(x.method for x in mine)
        ]
        heads = [metric if task == "*" else f"{task} {metric}" for task, metric in columns]
        tables.append({"source": source, "dataset": evidence.label(dataset), "columns": heads, "rows": rows})
    return {"tables": tables, "sql": queries.external(evidence.study)}


def twins(evidence: Evidence) -> dict[str, Any]:
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


def failures(evidence: Evidence) -> dict[str, Any]:
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


def budget(evidence: Evidence) -> dict[str, Any]:
    entries = {e.method: e for e in leaderboard(evidence).entries}
    rows = []
    for method in evidence.methods:
        b = entries[method].budget
        rows.append(
            {
                "method": evidence.label(method),
                "tuning": str(b.tuning_trials),
                "tuning_time": seconds(b.tuning_device_s),
                "tuning_s": f"{b.tuning_device_s:.3f}",
                "final": str(b.final_runs),
                "final_time": seconds(b.final_device_s),
                "final_s": f"{b.final_device_s:.3f}",
            }
        )
    return {"rows": rows, "sql": queries.budget(evidence.study)}


def sensitivity(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
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


def provenance(evidence: Evidence, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "facts": [
            ("study", evidence.study),
            ("study hash", evidence.sha256),
            *((f"{name} version", version) for name, version in sorted(evidence.versions.items())),
            *(("ran in", _ran_in(e)) for e in evidence.environments),
            *((f"registration of {v.claim_id}", v.detail["registration"]) for v in verdicts),
        ],
        "trials": [
            {"id": r.trial, "label": r.label, "state": r.state, "settings": _settings(r)}
            for r in evidence.phase("final")
        ],
        "sql": queries.trials(evidence.study),
    }


def _ran_in(e: Environment) -> str:
    commit = f", commit {e.git_commit[:12]}{' with changes' if e.changed else ''}" if e.git_commit else ""
    trials = f"{e.trials} trial{'s' if e.trials != 1 else ''}"
    return f"{e.device}, torch {e.torch}, Python {e.python}, {e.platform}{commit}: {trials}"


def _settings(run: Run) -> str:
    try:
        raw = json.loads(run.params)
    except ValueError:
        return run.params
    return ", ".join(f"{k}={v}" for k, v in sorted(raw.items())) if isinstance(raw, dict) else run.params
