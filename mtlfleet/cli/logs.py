"""``mtlfleet logs``: what the ranks of a trial printed."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("logs")
@click.argument("trial")
@click.option("--study", type=click.Path(path_type=Path), help="Study file or store. Default: the stores near here.")
@click.option("--rank", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--attempt", type=click.IntRange(min=1), help="Default: the latest.")
@click.option("--tail", type=click.IntRange(min=1), help="Only the last lines.")
def command(trial: str, study: Path | None, rank: int, attempt: int | None, tail: int | None) -> None:
    """Print the log of TRIAL (the first characters of its id), without escape sequences."""
    from mtlfleet.cli.show import locate
    from mtlfleet.errors import UsageError
    from mtlfleet.store.logs import logs_of, read_log
    from mtlfleet.store.plain_text import plain

    found = locate(trial, study)
    logs = logs_of(found.root, found.trial)
    chosen = attempt or max((a for a, _ in logs), default=0)
    if (chosen, rank) not in logs:
        known = ", ".join(f"attempt {a} rank {r}" for a, r in logs) or "none"
        raise UsageError(
            f"trial {found.trial} has no log of attempt {chosen or '-'} rank {rank}", notes=[f"known: {known}"]
        )
    where, lines = read_log(found.root, found.trial, chosen, rank)
    click.echo(where, err=True)
    for line in lines[-tail:] if tail else lines:
        click.echo(plain(line, keep_lines=True))
