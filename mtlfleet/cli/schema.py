"""The study file's JSON Schema, for editors."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mtlfleet.cli import output
from mtlfleet.errors import EnvironmentProblem
from mtlfleet.plan.jsonschema import study_json_schema


@click.command(name="schema")
@click.option("-o", "out", metavar="FILE", type=click.Path(dir_okay=False), help="Write there instead of to stdout.")
@click.option("--json", "json_", is_flag=True, help="The schema is JSON either way.")
def command(out: str | None, json_: bool) -> None:
    """The study file's JSON Schema (draft 7). Name it in a study's first line:

    # yaml-language-server: $schema=study.schema.json
    """
    del json_
    text = json.dumps(study_json_schema(), indent=1, ensure_ascii=False)
    if out is None:
        output.emit(text)
        return
    try:
        Path(out).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {output.printable(out)}: {error.strerror}") from None
    click.echo(f"wrote {out}", err=True)
