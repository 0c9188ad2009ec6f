"""``mtlfleet init``: a working file to start from, small enough to read whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import click

from mtlfleet.cli import output
from mtlfleet.errors import UsageError

NEXT: Mapping[str, str] = {
    "method": "mtlfleet methods check {path}",
    "dataset": "mtlfleet datasets check {path}",
    "architecture": "mtlfleet architectures check {path}",
    "study": "mtlfleet validate {path}",
}


@click.command(name="init")
@click.argument("path", required=False)
@click.option("--template", type=click.Choice(list(NEXT)), default="study", show_default=True, help="What to write.")
def command(path: str | None, template: str) -> None:
    """Write a study, or a plug-in of at most sixty lines, that passes its check; then edit it.

    PATH is the file (default: my_<template>.py, or study.yaml); its name becomes the name in the registry. A file
    that is there already is left alone.
    """
    ending = ".yaml" if template == "study" else ".py"
    target = Path(path or ("study.yaml" if template == "study" else f"my_{template}.py"))
    if target.suffix != ending:
        raise UsageError(f"{target}: a {template} is a {ending} file", help=f"{target.with_suffix(ending)}")
    name = re.sub(r"[^a-z0-9_]", "_", target.stem.lower())
    if not re.match(r"[a-z]", name):
        raise UsageError(f"{target}: `{name}` is no name for a {template}", help="begin with a letter")
    text = files("mtlfleet.cli").joinpath("templates", f"{template}{ending}.txt").read_text(encoding="utf-8")
    filled = text.replace("NAME", name).replace(
        "CLASS", "".join(part.capitalize() for part in name.split("_")) or "Mine"
    )
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(filled)
    except FileExistsError:
        raise UsageError(f"{target} is there already", help="name another file") from None
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None
    output.emit(f"wrote {target}\nnext: {NEXT[template].format(path=target)}")
