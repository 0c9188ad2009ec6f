"""``mtlfleet digest``: one hash of a study's results."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("digest")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--segments", is_flag=True, help="Ignore the snapshot; read the segments only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(study: Path, segments: bool, as_json: bool) -> None:
    """SHA-256 over the sorted results of STUDY, without times, hosts and attempt numbers."""
    from mtlfleet.store.result_digest import digest
    from mtlfleet.store.store import open_store

    store = open_store(study)
    name = store.one_study()
    found = digest(store, name, use_snapshot=not segments)
    if as_json:
        click.echo(json.dumps({"schema": "mtlfleet/digest/1", "study": name, "sha256": found}))
    else:
        click.echo(found)
