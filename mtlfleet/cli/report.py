"""``mtlfleet report``: the whole study as one HTML file that needs nothing else."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtlfleet.cli import output
from mtlfleet.plan.place import Root

if TYPE_CHECKING:
    from mtlfleet_analysis.report import Made

EVERY = 30.0


def _beside(study: str, root: Root) -> Path:
    """Where the report lies by default: in a store's folder; for a bucket beside the study file's other local files."""
    from mtlfleet.plan import Study

    given = output.study_or_store(study)
    if not isinstance(root, str):
        return root / "report.html"
    return Path("report.html") if isinstance(given, str) else Study.load(given).folder / "report.html"


@click.command("report")
@click.argument("study")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Default: report.html in the store.")
@click.option("--interactive", is_flag=True, help="Also write figures that show values on hover; that file needs eval.")
@click.option("--watch", is_flag=True, help="Write it again while the study runs; ends with the study.")
@click.option("--every", type=click.FloatRange(min=1), default=EVERY, help="Seconds between two looks of --watch.")
@click.option(
    "--export", "folder", type=click.Path(path_type=Path), help="Also write figures and tables into a folder."
)
@click.option("--format", "formats", multiple=True, help="svg, png, pdf, json, csv, markdown, latex. Default: all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    study: str,
    out: Path | None,
    interactive: bool,
    watch: bool,
    every: float,
    folder: Path | None,
    formats: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the report of STUDY (a study file or a store folder): verdicts, figures, ledger, provenance.

    Beside it goes a file with the figures as Vega-Lite data. The page makes no request and runs nothing but a few lines
    that sort its tables.
    """
    from mtlfleet.cli.claims import asked_for
    from mtlfleet.errors import EnvironmentProblem, UsageError
    from mtlfleet_analysis.report import make

    _check(formats, folder)
    if watch and as_json:
        raise UsageError("--watch and --json exclude each other", help="one object is printed once")
    asked, store = asked_for(study)
    target = out or _beside(study, store.root)
    try:
        while True:
            made = make(asked, store)
            paths = made.write(target, interactive=interactive)
            if not watch or not _told(made, target):
                break
            time.sleep(every)
        if folder is not None:
            from mtlfleet_analysis.report.exporting import FORMATS, export

            paths += export(made, folder, formats or FORMATS)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {error.filename or target}: {error.strerror}", help="-o FILE") from None
    _say(asked.name, target, paths, as_json)


def _check(formats: tuple[str, ...], folder: Path | None) -> None:
    """Raises UsageError for a format that is none, or one without a folder."""
    from mtlfleet.errors import UsageError, nearest
    from mtlfleet_analysis.report.exporting import FORMATS

    for name in formats:
        if name not in FORMATS:
            close = nearest(name, FORMATS)
            raise UsageError(
                f"--format: expected one of {', '.join(FORMATS)}, found `{name}`",
                help=f"did you mean `{close}`?" if close else None,
            )
    if formats and folder is None:
        raise UsageError("--format says how --export writes, and there is no --export", help="--export FOLDER")


def _told(made: Made, target: Path) -> bool:
    """One line about what is written; whether the study still owes runs."""
    runs = made.evidence.runs
    owed = sum(r.state in ("running", "missing") for r in runs)
    click.echo(f"{target}  {len(runs) - owed}/{len(runs)} trials", err=True)
    return owed > 0


def _say(study: str, target: Path, paths: tuple[Path, ...], as_json: bool) -> None:
    if not as_json:
        for path in paths if len(paths) <= 4 else paths[:1]:
            click.echo(str(path))
        if len(paths) > 4:
            click.echo(f"and {len(paths) - 1} files beside it and in the export")
        return
    content = target.read_bytes()
    facts: dict[str, Any] = {
        "study": study,
        "path": str(target),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "files": [str(p) for p in paths],
    }
    click.echo(output.as_json("mtlfleet/report/1", **facts))
