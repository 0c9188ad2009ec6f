"""Run trials again whose own code or memory use ended them."""

from __future__ import annotations

import click

from mtlfleet.cli import output
from mtlfleet.errors import UsageError
from mtlfleet.plan import Study

_CAUSES = {"error": "failed", "oom": "oom"}


@click.command(name="resume")
@click.argument("study")
@click.option("--failed", is_flag=True, help="Run failed trials again; without it nothing would be re-run.")
@click.option("--cause", type=click.Choice(sorted(_CAUSES)), help="Only those that ended by this cause.")
@click.option("--address", default="local", metavar="ADDR", show_default=True, help="local, auto or HOST:PORT.")
@click.option("--progress", type=click.Choice(["auto", "plain", "none"]), default="auto", show_default=True)
@click.option("--json", "json_", is_flag=True, help="One object on stdout: mtlfleet/launch/1.")
@click.pass_context
def command(
    ctx: click.Context, study: str, failed: bool, cause: str | None, address: str, progress: str, json_: bool
) -> None:
    """Run STUDY's failed trials again, from their last checkpoint, with the same seeds. Diverged runs are results."""
    if not failed:
        raise UsageError("resume re-runs failed trials only when told so", help=f"mtlfleet resume {study} --failed")
    from mtlfleet.cli.launch import conclude, require_mirrors
    from mtlfleet.launch.driver import Options, launch

    loaded = Study.load(output.study_file(study))
    require_mirrors(loaded)
    states = frozenset(_CAUSES.values() if cause is None else [_CAUSES[cause]])
    conclude(ctx, study, loaded, launch(loaded, Options(address, progress=progress, rerun=states)), json_)
