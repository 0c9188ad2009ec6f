"""Judging at the command line: what ``claims`` and the end of ``launch`` share."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from mtlfleet.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtlfleet.plan import Study
    from mtlfleet.store import Store
    from mtlfleet_analysis.loading import Asked
    from mtlfleet_analysis.verdict import Verdict

WIDTH = 80


def judge_and_record(study: Study | Asked, store: Store) -> tuple[Verdict, ...]:
    """The verdicts, written to the store's table ``verdicts`` where that may be written."""
    from mtlfleet_analysis.judging import judge_evidence
    from mtlfleet_analysis.loading import from_store, save

    verdicts = judge_evidence(from_store(study, store), study.claims)
    try:
        save(verdicts, study.name, store.root)
    except OSError as error:  # a store that may only be read still has its verdicts
        click.echo(f"note: the verdicts were not written to {store.root}: {error.strerror}", err=True)
    return verdicts


def chip(verdict: Verdict) -> str:
    """Glyph, verdict and qualification."""
    from mtlfleet_analysis.report.palette import badge

    fragile = ", fragile" if verdict.fragile else ""
    return f"{badge(verdict.verdict, verdict.label)[0]} {verdict.title}{fragile}"


def wrapped(text: str, indent: str = "  ") -> str:
    """Safe text in lines of at most 80 columns."""
    lines = textwrap.wrap(output.printable(text), WIDTH, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Every verdict as a block of at most 80 columns, then the tally."""
    if not verdicts:
        click.echo("this study claims nothing")
        return
    for verdict in verdicts:
        click.echo(f"{output.printable(verdict.claim_id)}: {chip(verdict)}")
        click.echo(wrapped(verdict.sentence))
        if verdict.detail["standing"]["status"] != "registered":
            click.echo(wrapped(f"registration: {verdict.detail['standing']['note']}"))
        click.echo()
    counts: dict[str, int] = {}
    for verdict in verdicts:
        counts[verdict.verdict] = counts.get(verdict.verdict, 0) + 1
    noun = "claim" if len(verdicts) == 1 else "claims"
    click.echo(f"{len(verdicts)} {noun}: {', '.join(f'{n} {name}' for name, n in counts.items())}")
