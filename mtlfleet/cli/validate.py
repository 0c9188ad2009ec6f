"""Check a study file: every mistake at once, each at its place; nothing is run."""

from __future__ import annotations

import click

from mtlfleet.cli import output
from mtlfleet.errors import StudyInvalid
from mtlfleet.plan import check


@click.command(name="validate")
@click.argument("study")
@click.option("--json", "json_", is_flag=True, help="One object: mtlfleet/validate/1.")
@click.pass_context
def command(ctx: click.Context, study: str, json_: bool) -> None:
    """Check the study file STUDY. No plug-in code runs. Exit code 3 if there is an error."""
    path = output.study_file(study)
    findings = check(path)
    if json_:
        counts = {"errors": len(findings.errors), "warnings": len(findings.warnings)}
        diagnostics = [output.diagnostic_json(d) for d in findings.diagnostics]
        valid = not findings.errors
        output.emit(
            output.as_json("mtlfleet/validate/1", path=str(path), valid=valid, **counts, diagnostics=diagnostics)
        )
    elif findings.diagnostics:
        output.print_findings(findings)
    if findings.errors:
        ctx.exit(StudyInvalid.exit_code)
    if not json_:
        output.emit(f"{path}: valid")
