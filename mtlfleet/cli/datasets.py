"""The datasets that a study can use: what they hold, and whether a folder holds it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mtlfleet.cli import output
from mtlfleet.cli.catalogue import group
from mtlfleet.declarations import REQUIRED, Entry, plugin_path, read_file
from mtlfleet.errors import EnvironmentProblem, FleetError, PluginError, UsageError, nearest
from mtlfleet.registry import Catalogue, build


def _facts(entry: Entry) -> dict[str, Any]:
    if any(p.default is REQUIRED for p in entry.parameters):
        return {}
    facts = build("dataset", entry.name).facts()
    return {
        "tasks": [asdict(task) for task in facts.tasks],
        "train_size": facts.train_size,
        "input_shape": list(facts.input_shape),
        "fingerprint": facts.fingerprint,
    }


command = group("dataset", _facts)


def _given(entry: Entry, root: str | None, settings: tuple[str, ...]) -> dict[str, Any]:
    """Parameters from ``--root`` and ``--set name=value``. Raises UsageError for one that the dataset does not have."""
    names = [p.name for p in entry.parameters]
    found: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in names or not value:
            close = nearest(name, names)
            raise UsageError(
                f"--set {setting}: {entry.name} has no such parameter",
                notes=[f"{entry.name} has: {', '.join(names)}"],
                help=f"did you mean `{close}`?" if close else None,
            )
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = value
        found[name] = tuple(parsed) if isinstance(parsed, list) else parsed
    if root is not None:
        if "root" not in names:
            raise UsageError(
                f"{entry.name} comes with mtlfleet: it has no root", help=f"mtlfleet datasets check {entry.name}"
            )
        found["root"] = str(Path(root).absolute())
    if "root" in names and "root" not in found:
        raise UsageError(
            f"{entry.name} lies in a folder: say where", help=f"mtlfleet datasets check {entry.name} --root X"
        )
    return found


def _built(catalogue: Catalogue, entry: Entry, given: dict[str, Any]) -> Any:
    try:
        return catalogue.load("dataset", entry.name)(**catalogue.parameters("dataset", entry.name, given))
    except FleetError:
        raise
    except Exception as error:  # anyone's code may refuse its parameters in any way
        raise UsageError(f"{entry.name} cannot be made of these parameters: {error}") from None


ROOT = click.option("--root", metavar="DIR", help="The folder the data lie in.")
SET = click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="Another parameter of the dataset.")


@command.command(name="prepare")
@click.argument("name")
@ROOT
@SET
def prepare(name: str, root: str | None, settings: tuple[str, ...]) -> None:
    """Check a folder once and write down what is in it; training then reads that. Nothing is downloaded.

    For `densedigits`, which needs no data: write it into an empty folder in the layout of NYUv2.
    """
    catalogue = Catalogue()
    entry = catalogue.find("dataset", name)
    if name == "densedigits" and root is not None:
        from mtlfleet.datasets.mtan_export import export

        if any((Path(root) / part).exists() for part in ("train", "val")):
            raise UsageError(f"{root} holds data already", help="name a folder that is empty or not there yet")
        written = export(_built(catalogue, entry, _given(entry, None, settings)), Path(root))
        output.emit(f"wrote {written} files to {root}\nnext: mtlfleet datasets prepare nyuv2 --root {root}")
        return
    data = _built(catalogue, entry, _given(entry, root, settings))
    if not hasattr(data, "prepare"):
        output.emit(f"{name} comes with mtlfleet: there is nothing to prepare")
        return
    place = data.prepare()
    facts = data.facts()
    sizes = f"{facts.train_size} train, {facts.extras['val_size']} val, {facts.extras['test_size']} test"
    output.emit(f"{name}: {sizes}; fingerprint {facts.fingerprint[:16]}\n{place}")


@command.command(name="check")
@click.argument("name")
@ROOT
@SET
@click.option("--json", "json_", is_flag=True, help="One object: mtlfleet/dataset-check/1.")
@click.pass_context
def check(ctx: click.Context, name: str, root: str | None, settings: tuple[str, ...], json_: bool) -> None:
    """Name everything that is wrong with a dataset's folder; or run the contracts on a dataset that needs none.

    NAME may be a plug-in's FILE.py: its code is run. Exit code 4 for a folder with findings, 3 for a broken contract.
    """
    plugin = name.endswith(".py")
    catalogue = Catalogue(plugins=(name,), base=Path.cwd()) if plugin else Catalogue()
    entries = [catalogue.find("dataset", name)] if not plugin else [
        e for e in read_file(plugin_path(name, Path.cwd()), None) if e.kind == "dataset"
    ]  # fmt: skip
    if not entries:
        raise PluginError(
            f"{name} declares no dataset", help='decorate a class at the top of the file: @dataset("name")'
        )
    found: list[str] = []
    code = 0
    for entry in entries:
        data = _built(catalogue, entry, _given(entry, root, settings))
        if hasattr(data, "findings"):
            found += list(data.findings())
            code = EnvironmentProblem.exit_code if found else code
        else:
            from mtlfleet.testing.citizens import dataset_findings

            found += dataset_findings(data)
            code = PluginError.exit_code if found else code
    names = [entry.name for entry in entries]
    if json_:
        output.emit(output.as_json("mtlfleet/dataset-check/1", datasets=names, sound=not found, findings=found))
    else:
        lines = [*found, f"{', '.join(names)}: " + (f"{len(found)} findings" if found else "sound")]
        output.emit("\n".join(lines))
    if code:
        ctx.exit(code)
