"""``mtlfleet import``: tables that others published, beside the study's own results."""

from __future__ import annotations

from pathlib import Path

import click

from mtlfleet.cli import output
from mtlfleet.errors import UsageError
from mtlfleet.plan.place import Root


@click.command("import")
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("published", type=click.Path(path_type=Path))
@click.option(
    "--dataset", "renamed", multiple=True, metavar="IN_FILE=IN_STUDY", help="The study's id of a dataset of the file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(study: Path, published: Path, renamed: tuple[str, ...], as_json: bool) -> None:
    """Import the tables of PUBLISHED (a JSON file) into STUDY (a study file or a store folder).

    They are marked external: they stand in the leaderboard and in the report, are never ranked, and never enter a test
    or a claim. Importing a table again replaces it. Format: docs/sql.md.
    """
    from mtlfleet.store import read_document, write_document
    from mtlfleet.store.external import TABLE, merged, read_published

    root, name = _place(study)
    found = read_published(published, dict(_renaming(word) for word in renamed))
    path = write_document(root, name, TABLE, merged(read_document(root, name, TABLE), found))
    for doubt in found.doubts:
        click.echo(f"note: {output.printable(doubt)}", err=True)
    methods = {(row["dataset"], row["method"]) for row in found.rows}
    if as_json:
        fields = {"study": name, "rows": len(found.rows), "methods": len(methods), "changed": path is not None}
        click.echo(output.as_json("mtlfleet/import/1", **fields, doubts=list(found.doubts)))
        return
    tables = ", ".join(sorted({f"{dataset} ({output.printable(source)[:60]})" for source, dataset in found.sources}))
    click.echo(f"{'imported' if path else 'already there:'} {len(methods)} methods, {len(found.rows)} values: {tables}")
    click.echo(f"see      mtlfleet sql {study} @leaderboard", err=True)


def _place(study: Path) -> tuple[Root, str]:
    """Root and study. A study file will do before anything has run."""
    from mtlfleet.store.store import open_store

    if study.is_file() and study.suffix in (".yaml", ".yml"):
        from mtlfleet.plan import Study

        loaded = Study.load(study)
        return loaded.root, loaded.name
    store = open_store(study)
    return store.root, store.one_study()


def _renaming(word: str) -> tuple[str, str]:
    there, equals, here = word.partition("=")
    if not equals or not there or not here:
        raise UsageError(f"--dataset {word}: expected NAME_IN_FILE=NAME_IN_STUDY")
    return there, here
