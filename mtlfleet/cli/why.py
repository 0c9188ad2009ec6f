"""``mtlfleet why``: why a trial ended as it did, and what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mtlfleet.store.find import Found

LINES = 15
MEANING = {
    "missing": ("no process has started it", "mtlfleet launch STUDY"),
    "running": ("it runs, or its process died without a word", "mtlfleet launch STUDY runs it again if it is dead"),
    "done": ("it finished", ""),
    "diverged": ("training became non-finite; this is an outcome and is scored worst", ""),
    "failed": ("its own code raised an error", "mend it, then mtlfleet resume STUDY --failed"),
    "oom": ("it ran out of memory", "give it more memory or less to hold, then mtlfleet resume STUDY --failed"),
    "lost": ("its node or a rank went away", "mtlfleet launch STUDY runs it again"),
    "interrupted": ("it was asked to stop", "mtlfleet launch STUDY goes on from its checkpoint"),
}  # fmt: skip


@click.command("why")
@click.argument("trial")
@click.option("--study", type=click.Path(path_type=Path), help="Study file or store. Default: the stores near here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(trial: str, study: Path | None, as_json: bool) -> None:
    """Say how TRIAL (the first characters of its id) ended, attempt by attempt, with the last words of its ranks."""
    from mtlfleet.cli.show import locate

    report = _report(locate(trial, study))
    if as_json:
        click.echo(json.dumps({"schema": "mtlfleet/why/1", **report}, indent=1))
        return
    click.echo(f"{report['trial']}: {report['state']}: {report['meaning']}")
    for attempt in report["attempts"]:
        restored = f", from step {attempt['restored_step']}" if attempt["restored_step"] else ""
        click.echo(
            f"  attempt {attempt['attempt']} on {attempt['node']}{restored}: {attempt['state']} {attempt['reason']}"
        )
    for log in report["logs"]:
        click.echo(f"\n{log['path']}")
        for line in log["lines"]:
            click.echo(f"  | {line}")
    if report["next"]:
        click.echo(f"\nnext: {report['next']}")


def _report(found: Found) -> dict[str, Any]:
    from mtlfleet.store import trial_state
    from mtlfleet.store.attempts import read_claims
    from mtlfleet.store.layout import attempts_in
    from mtlfleet.store.place import at
    from mtlfleet.store.plain_text import plain

    numbers = [n for n, _ in attempts_in(at(found.root), found.study, found.trial)]
    claims = read_claims(found.root, [(found.study, found.trial, n) for n in numbers])
    state = trial_state(found.root, found.study, found.trial)
    meaning, following = MEANING.get(state, ("", ""))
    return {
        "study": found.study,
        "trial": found.trial,
        "state": state,
        "meaning": meaning,
        "attempts": [
            {
                "attempt": claim["attempt"],
                "state": claim["state"],
                "reason": plain(str(claim.get("exit_reason") or "")),
                "node": plain(str(claim.get("node") or "unknown host")),
                "restored_step": claim["restored_step"],
            }
            for claim in claims
        ],
        "logs": _last_words(found, max(numbers, default=0)) if state != "done" else [],
        "next": following,
    }


def _last_words(found: Found, attempt: int) -> list[dict[str, Any]]:
    """The last lines of each rank's log of one attempt."""
    from mtlfleet.store.logs import logs_of, read_log
    from mtlfleet.store.plain_text import plain

    words = []
    for number, rank in logs_of(found.root, found.trial):
        if number == attempt:
            where, lines = read_log(found.root, found.trial, number, rank)
            words.append({"path": where, "lines": [plain(line) for line in lines[-LINES:]]})
    return words
