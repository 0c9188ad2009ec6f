"""``mtlfleet status``: how far a study is, from its files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mtlfleet.plan.place import Root
    from mtlfleet.store.store import Store

STATES = ("done", "diverged", "failed", "oom", "lost", "interrupted", "running", "missing")
OPEN = ("running", "missing")


@click.command("status")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--failures", is_flag=True, help="Group what did not end as done by its cause.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(study: Path, failures: bool, as_json: bool) -> None:
    """Count the trials of STUDY by state, per phase, method and dataset."""
    from mtlfleet.store.store import open_store

    store = open_store(study)
    name = store.one_study()
    trials = _trials(store.root, name)
    groups = _groups(trials)
    causes = _causes(store.root, name, trials) if failures or as_json else []
    twins = _twins(store, name, trials)
    if as_json:
        totals = Counter(t["state"] for t in trials)
        report = {
            "schema": "mtlfleet/status/1",
            "study": name,
            "root": str(store.root),
            "trials": len(trials),
            "states": {s: totals.get(s, 0) for s in STATES},
            "groups": groups,
            "failures": causes,
            "twins": twins,
        }
        click.echo(json.dumps(report, indent=1))
        return
    _print(name, trials, groups)
    _print_twins(twins)
    if failures:
        _print_causes(causes)


def _trials(root: Root, study: str) -> list[dict[str, Any]]:
    """The trials asked for, each with its state; files only, so that it works before any DuckDB exists."""
    from mtlfleet.errors import EnvironmentProblem
    from mtlfleet.store import read_document, trial_states

    rows = read_document(root, study, "trials")
    if not rows:
        raise EnvironmentProblem(f"nothing has run: {root} lists no trials of {study}", help="mtlfleet launch STUDY")
    states = trial_states(root, study, [row["trial_id"] for row in rows])
    return [{**row, "state": states[row["trial_id"]]} for row in rows]


def _groups(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for trial in trials:
        counts.setdefault((trial["phase"], trial["method"], trial["dataset"]), Counter())[trial["state"]] += 1
    return [
        {"phase": p, "method": m, "dataset": d, "trials": c.total(), **{s: c.get(s, 0) for s in STATES}}
        for (p, m, d), c in sorted(counts.items(), key=lambda item: (item[0][0] != "tune", item[0]))
    ]


def _causes(root: Root, study: str, trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trials that ended badly, grouped by (state, reason); the reason is untrusted text."""
    from mtlfleet.store import read_claim
    from mtlfleet.store.layout import attempts_in
    from mtlfleet.store.place import at
    from mtlfleet.store.plain_text import plain

    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for trial in trials:
        if trial["state"] in ("done", *OPEN):
            continue
        number, _ = attempts_in(at(root), study, trial["trial_id"])[-1]
        reason = plain(str(read_claim(root, study, trial["trial_id"], number).get("exit_reason") or "no reason given"))
        groups.setdefault((trial["state"], reason), []).append(trial)
    return [
        {
            "state": state,
            "reason": reason,
            "trials": len(group),
            "methods": dict(Counter(t["method"] for t in group)),
            "example": group[0]["trial_id"],
        }
        for (state, reason), group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _twins(store: Store, study: str, trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of methods that do the same, as far as their ended runs tell."""
    if sum(t["state"] in ("done", "diverged") for t in trials) < 2:
        return []
    return store.rows(
        "SELECT phase, dataset, architecture, method, twin, identical FROM twins "
        "WHERE study_id = ? AND identical = compared ORDER BY ALL",
        [study],
    )


def _print_twins(twins: list[dict[str, Any]]) -> None:
    from mtlfleet.store.plain_text import plain

    for t in twins:
        runs = f"{t['identical']} {t['phase']} run{'s' if t['identical'] != 1 else ''}"
        pair = plain(f"`{t['method']}` and `{t['twin']}` are twins on {t['dataset']}, {t['architecture']}")
        click.echo(f"warning: {pair}: bit-identical losses in all {runs} compared")


def _print(study: str, trials: list[dict[str, Any]], groups: list[dict[str, Any]]) -> None:
    shown = [s for s in STATES if any(g[s] for g in groups)]
    names = ["phase", "method", "dataset", "trials", *shown]
    rows = [[g[n] for n in names] for g in groups]
    totals = Counter(t["state"] for t in trials)
    summary = ", ".join(f"{totals[s]} {s}" for s in STATES if totals[s])
    if sys.stdout.isatty():
        _rich(f"{study}: {len(trials)} trials: {summary}", names, rows)
        return
    from mtlfleet.store.formats import text_table

    click.echo(f"{study}: {len(trials)} trials: {summary}")
    click.echo(text_table(names, rows), nl=False)


def _rich(title: str, names: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mtlfleet.store.plain_text import plain

    colours = {"done": "green", "diverged": "yellow", "failed": "red", "oom": "red", "lost": "red", "running": "cyan"}
    table = Table(title=Text(plain(title)), title_justify="left")
    for name in names:
        right = name in (*STATES, "trials")
        table.add_column(name, justify="right" if right else "left", style=colours.get(name, ""))
    for row in rows:
        table.add_row(*(Text(plain(str(v)) if v else "-") for v in row))
    Console().print(table)


def _print_causes(causes: list[dict[str, Any]]) -> None:
    if not causes:
        click.echo("no failures")
    for cause in causes:
        methods = ", ".join(f"{m} {n}" for m, n in sorted(cause["methods"].items()))
        click.echo(
            f"{cause['trials']} x {cause['state']}: {cause['reason']}\n    {methods}; example {cause['example']}"
        )
    if any(c["state"] in ("failed", "oom") for c in causes):
        click.echo("next: mtlfleet logs TRIAL, then mtlfleet resume STUDY --failed")
