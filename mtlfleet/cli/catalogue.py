"""``list`` and ``show`` for one kind of citizen, read from the catalogue: nothing is imported."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable
from typing import Any

import click

from mtlfleet.cli import output
from mtlfleet.declarations import REQUIRED, Entry, installed
from mtlfleet.errors import UsageError
from mtlfleet.registry import Catalogue

Facts = Callable[[Entry], dict[str, Any]]


def group(kind: str, facts: Facts | None = None, markdown: Callable[[], str] | None = None) -> click.Group:
    """The command group of a kind: ``mtlfleet methods list``, ``mtlfleet methods show NAME``.

    ``markdown``: what ``list --markdown`` prints; without it the option is refused.
    """

    @click.group(name=f"{kind}s", help=f"The {kind}s that a study can use.")
    def command() -> None:
        pass

    @command.command(name="list", help=f"All {kind}s: those that ship with mtlfleet, then those of installed packages.")
    @click.option("--json", "json_", is_flag=True, help=f"One object: mtlfleet/{kind}s/1.")
    @click.option("--markdown", "markdown_", is_flag=True, help="A page of documentation.", hidden=markdown is None)
    def list_(json_: bool, markdown_: bool) -> None:
        entries = Catalogue().entries(kind)
        for lost in installed().lost:
            click.echo(f"warning: {lost}", err=True)
        if markdown_:
            if markdown is None or json_:
                raise UsageError("--markdown goes alone, and only with `methods list`")
            output.emit(markdown())
            return
        if json_:
            output.emit(output.as_json(f"mtlfleet/{kind}s/1", **{f"{kind}s": [_data(e) for e in entries.values()]}))
            return
        shown = [(e.name, e.family, e.summary) for e in entries.values()]
        columns = (kind, "family", "what it is")
        if len({family for _, family, _ in shown}) < 2:
            columns, shown = (kind, "what it is", ""), [(n, s, "") for n, _, s in shown]
        output.emit(output.table(columns, shown))

    @command.command(name="show", help=f"One {kind}: its parameters, presets and source.")
    @click.argument("name")
    @click.option("--json", "json_", is_flag=True, help=f"One object: mtlfleet/{kind}/1.")
    def show(name: str, json_: bool) -> None:
        entry = Catalogue().find(kind, name)
        extra = facts(entry) if facts else {}
        if json_:
            output.emit(output.as_json(f"mtlfleet/{kind}/1", **_data(entry), docstring=docstring(entry), **extra))
        else:
            output.emit(_page(entry, extra))

    return command


def _literal(value: Any) -> Any:
    return None if value is REQUIRED else value


def _data(entry: Entry) -> dict[str, Any]:
    parameters = [
        {"name": p.name, "type": p.annotation, "default": _literal(p.default), "required": p.default is REQUIRED}
        for p in entry.parameters
    ]
    presets = {name: dict(values) for name, values in entry.presets.items()}
    return {
        "name": entry.name, "kind": entry.kind, "family": entry.family, "summary": entry.summary,
        "parameters": parameters, "presets": presets, "module": entry.module,
    }  # fmt: skip


def docstring(entry: Entry) -> str:
    """The whole docstring of a citizen's class, from its source."""
    tree = ast.parse(entry.path.read_bytes())
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == entry.class_name)
    return next((ast.get_docstring(node) or "" for node in classes), "")


def _page(entry: Entry, extra: dict[str, Any]) -> str:
    parts = [
        entry.name + (f" ({entry.family})" if entry.kind == "method" else ""),
        "",
        inspect.cleandoc(docstring(entry)),
    ]
    if entry.parameters:
        rows = [
            (p.name, "required" if p.default is REQUIRED else json.dumps(p.default), p.annotation)
            for p in entry.parameters
        ]
        parts += ["", output.table(("parameter", "default", "type"), rows)]
    if entry.presets:
        rows = [(f"{entry.name}@{name}", json.dumps(dict(values)), "") for name, values in entry.presets.items()]
        parts += ["", output.table(("preset", "sets", ""), rows)]
    parts += [f"{name}: {value}" if i else f"\n{name}: {value}" for i, (name, value) in enumerate(extra.items())]
    return "\n".join(parts)
