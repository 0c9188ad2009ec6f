"""The methods that a study can use, and the contracts that each is held to."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import click

from mtlfleet.cli import method_pages, output
from mtlfleet.cli.catalogue import group
from mtlfleet.declarations import plugin_path, read_file
from mtlfleet.errors import PluginError
from mtlfleet.registry import Catalogue

command = group("method", markdown=method_pages.page)


@command.command(name="check")
@click.argument("name")
@click.option("--json", "json_", is_flag=True, help="One object: mtlfleet/method-check/1.")
@click.pass_context
def check(ctx: click.Context, name: str, json_: bool) -> None:
    """Run the contracts on NAME, a method or name@preset, or on every method of a plug-in: FILE.py or a dotted module.

    The plug-in's code is run. Exit code 3 if a contract is broken.
    """
    catalogue, names = _subjects(name)
    results = [result for each in names for result in _run(catalogue, each)]
    broken = [result for result in results if not result["kept"]]
    if json_:
        output.emit(output.as_json("mtlfleet/method-check/1", methods=names, kept=not broken, contracts=results))
    else:
        rows = [(r["method"], r["contract"], "kept" if r["kept"] else "BROKEN", r["saw"]) for r in results]
        output.emit(output.table(("method", "contract", "", "what it saw"), rows))
    if broken:
        ctx.exit(PluginError.exit_code)


def _subjects(name: str) -> tuple[Catalogue, list[str]]:
    """Where to look, and for which methods. Raises UnknownName, or PluginError for a file that declares none."""
    plain = name.partition("@")[0]
    catalogue = Catalogue()
    if not name.endswith(".py") and ("." not in name or plain in catalogue.entries("method")):
        catalogue.find("method", name)
        return catalogue, [name]
    catalogue = Catalogue(plugins=(name,), base=Path.cwd())
    declared = read_file(plugin_path(name, Path.cwd()), None if name.endswith(".py") else name)
    methods = [entry for entry in declared if entry.kind == "method"]
    if not methods:
        raise PluginError(
            f"{name} declares no method", help='decorate a class at the top of the file: @method("its_name")'
        )
    return catalogue, [spelled for e in methods for spelled in (e.name, *(f"{e.name}@{p}" for p in e.presets))]


def _run(catalogue: Catalogue, name: str) -> list[dict[str, Any]]:
    from mtlfleet.testing import method_checks  # torch: only for this command

    try:
        checks = method_checks(name, catalogue)
    except (ValueError, TypeError) as error:
        raise PluginError(f"method `{name}` cannot be checked: {error}") from error
    results = []
    for each in checks:
        kept, saw = True, ""
        try:
            each()
        except AssertionError as error:
            kept, saw = False, str(error)
        except Exception as error:  # a plug-in may raise anything: that too is an answer
            last = traceback.extract_tb(error.__traceback__)[-1]
            kept, saw = False, f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        contract = each.contract.__name__
        results.append({"method": name, "contract": contract, "kept": kept, "saw": _short(saw)})
    return results


def _short(text: str, width: int = 160) -> str:
    """The first line, cut."""
    line = text.partition("\n")[0]
    return line if len(line) <= width else line[: width - 3] + "..."
