"""Versions of mtlfleet and of what it runs on."""

from __future__ import annotations

import click

from mtlfleet.cli import output, versions


@click.command(name="version")
@click.option("--json", "json_", is_flag=True, help="One object: mtlfleet/version/1.")
def command(json_: bool) -> None:
    """Versions of mtlfleet and of what it runs on, from package metadata."""
    known = versions()
    if json_:
        output.emit(output.as_json("mtlfleet/version/1", versions=known))
    else:
        output.emit("\n".join(f"{name} {number}" for name, number in known.items()))
