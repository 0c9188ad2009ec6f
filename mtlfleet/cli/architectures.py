"""The architectures that a study can use, and the contracts each is held to."""

from __future__ import annotations

from pathlib import Path

import click

from mtlfleet.cli import output
from mtlfleet.cli.catalogue import group
from mtlfleet.declarations import plugin_path, read_file
from mtlfleet.errors import PluginError
from mtlfleet.registry import Catalogue

command = group("architecture")


@command.command(name="check")
@click.argument("name")
@click.option("--json", "json_", is_flag=True, help="One object: mtlfleet/architecture-check/1.")
@click.pass_context
def check(ctx: click.Context, name: str, json_: bool) -> None:
    """Run the contracts on NAME, or on every architecture of a plug-in's FILE.py, whose code is run.

    Exit code 3 if a contract is broken.
    """
    plugin = name.endswith(".py")
    catalogue = Catalogue(plugins=(name,), base=Path.cwd()) if plugin else Catalogue()
    if plugin:
        names = [e.name for e in read_file(plugin_path(name, Path.cwd()), None) if e.kind == "architecture"]
    else:
        names = [catalogue.find("architecture", name).name]
    if not names:
        raise PluginError(
            f"{name} declares no architecture",
            help='decorate a class at the top of the file: @architecture("its_name")',
        )
    from mtlfleet.testing.citizens import architecture_findings  # torch: only for this command

    found = [f"{each}: {finding}" for each in names for finding in architecture_findings(catalogue, each)]
    if json_:
        output.emit(
            output.as_json("mtlfleet/architecture-check/1", architectures=names, kept=not found, findings=found)
        )
    else:
        output.emit("\n".join([*found, f"{', '.join(names)}: " + (f"{len(found)} findings" if found else "sound")]))
    if found:
        ctx.exit(PluginError.exit_code)
