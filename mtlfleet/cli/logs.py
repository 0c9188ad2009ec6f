"""``mtlfleet logs``: what the ranks of a trial printed."""

from __future__ import annotations

import re
from pathlib import Path

import click

_NAME = re.compile(r"attempt=(\d+)-rank=(\d+)\.log")


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
    from mtlfleet.store.layout import entries
    from mtlfleet.store.plain_text import plain

    found = locate(trial, study)
    folder = found.root / "logs" / f"trial={found.trial}"
    logs = {(int(m[1]), int(m[2])) for e in entries(folder) if (m := _NAME.fullmatch(e.name))}
    chosen = attempt or max((a for a, _ in logs), default=0)
    if (chosen, rank) not in logs:
        known = ", ".join(f"attempt {a} rank {r}" for a, r in sorted(logs)) or "none"
        raise UsageError(
            f"trial {found.trial} has no log of attempt {chosen or '-'} rank {rank}", notes=[f"known: {known}"]
        )
    path = folder / f"attempt={chosen}-rank={rank}.log"
    click.echo(str(path), err=True)
    with path.open(encoding="utf-8", errors="replace") as lines:
        kept = list(lines)[-tail:] if tail else lines
        for line in kept:
            click.echo(plain(line.rstrip("\r\n"), keep_lines=True))
