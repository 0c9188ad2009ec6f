"""``mtlfleet report``: the whole study as one HTML file that needs nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from mtlfleet.cli import output
from mtlfleet.plan.place import Root


def _beside(study: str, root: Root) -> Path:
    """Where the report lies by default: in a store's folder; for a bucket beside the study file's other local files."""
    from mtlfleet.plan import Study

    given = output.study_or_store(study)
    if not isinstance(root, str):
        return root / "report.html"
    return Path("report.html") if isinstance(given, str) else Study.load(given).folder / "report.html"


@click.command("report")
@click.argument("study")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), help="Default: report.html in the store's folder."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(study: str, out: Path | None, as_json: bool) -> None:
    """Write the report of STUDY (a study file or a store folder): verdicts, figures, ledger, provenance."""
    from mtlfleet.cli.claims import asked_for
    from mtlfleet.errors import EnvironmentProblem
    from mtlfleet_analysis.report import render

    asked, store = asked_for(study)
    target = out or _beside(study, store.root)
    try:
        path = render(asked, store, target)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {target}: {error.strerror}", help="-o FILE") from None
    if not as_json:
        click.echo(str(path))
        return
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    click.echo(output.as_json("mtlfleet/report/1", study=asked.name, path=str(path), bytes=len(content), sha256=digest))
