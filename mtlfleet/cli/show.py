"""``mtlfleet show``: everything about one trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mtlfleet.store.find import Found


def locate(trial: str, study: Path | None) -> Found:
    """The trial meant by a prefix. Raises UsageError when there is none, or several."""
    from mtlfleet.store.find import find_trial, nearby
    from mtlfleet.store.store import open_store

    return find_trial(trial, [open_store(study).root] if study else nearby(Path.cwd()))


@click.command("show")
@click.argument("trial")
@click.option("--study", type=click.Path(path_type=Path), help="Study file or store. Default: the stores near here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(trial: str, study: Path | None, as_json: bool) -> None:
    """Print what TRIAL (the first characters of its id) is, its attempts and its results."""
    report = _report(locate(trial, study))
    if as_json:
        from mtlfleet.store.formats import jsonable

        click.echo(json.dumps(jsonable({"schema": "mtlfleet/show/1", **report}), indent=1, allow_nan=False))
        return
    _print(report)


def _report(found: Found) -> dict[str, Any]:
    from mtlfleet.store.store import Store

    key = {"study": found.study, "trial": found.trial}
    where = "WHERE study_id = $study AND trial_id = $trial"
    with Store(found.root).session() as session:

        def rows(query: str) -> list[dict[str, Any]]:
            answer: list[dict[str, Any]] = session.sql(query, key).to_pylist()
            return answer

        summary = rows(f"SELECT * FROM trial_summary {where}")
        config = rows(f"SELECT config FROM trials {where}")
        return {
            "root": str(found.root),
            "study": found.study,
            "trial": found.trial,
            "summary": summary[0] if summary else {},
            "config": json.loads(config[0]["config"]) if config and config[0]["config"] else {},
            "attempts": rows(f"SELECT * EXCLUDE (study_id, trial_id) FROM attempts {where} ORDER BY attempt"),
            "results": rows(
                f"SELECT split, task, metric, value, n_nonfinite, step FROM final_metrics {where} ORDER BY ALL"
            ),
            "events": rows(
                "SELECT attempt, step, logged_at, level, kind, message FROM events"
                f" {where} ORDER BY logged_at DESC LIMIT 20"
            )[::-1],
        }  # fmt: skip


def _print(report: dict[str, Any]) -> None:
    from mtlfleet.store.formats import text_table
    from mtlfleet.store.plain_text import plain

    summary = report["summary"]
    click.echo(f"{report['trial']}  {plain(str(summary.get('label') or 'not in the current study'))}")
    click.echo(f"study {report['study']}, store {report['root']}")
    for name in (
        "state",
        "exit_reason",
        "phase",
        "method",
        "method_use",
        "dataset",
        "architecture",
        "task",
        "seed",
        "params",
    ):
        if summary.get(name) is not None:
            click.echo(f"  {name:13} {plain(str(summary[name]))}")
    columns = ("attempt", "state", "restored_step", "last_step", "node", "train_s", "exit_reason")
    for title, names, rows in (
        ("attempts", columns, report["attempts"]),
        ("results", ("split", "task", "metric", "value", "n_nonfinite", "step"), report["results"]),
        ("events", ("attempt", "step", "level", "kind", "message"), report["events"]),
    ):
        if rows:
            click.echo(f"\n{title}")
            click.echo(text_table(names, [[row[n] for n in names] for row in rows]), nl=False)
