"""Ask a running launch to stop, from another terminal."""

from __future__ import annotations

import click

from mtlfleet.cli import output
from mtlfleet.errors import UsageError
from mtlfleet.plan import Study


@click.command(name="stop")
@click.argument("study")
def command(study: str) -> None:
    """Ask the launch of STUDY to drain: running trials leave a checkpoint, nothing new starts."""
    from mtlfleet.launch.drain import ask

    path = output.study_or_store(study)
    if isinstance(path, str):
        raise UsageError(f"{path} does not say where its launch runs", help="name the study file")
    if ask(path if path.is_dir() else Study.load(path).folder):
        output.emit("asked; the launch stops within seconds and can be resumed with `mtlfleet launch`")
    else:
        output.emit("no launch is running there; nothing to stop")
