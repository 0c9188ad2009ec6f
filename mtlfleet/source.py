"""What a class's source says of its fields, read as text: nothing is imported."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter as its source declares it; ``annotation`` is the type's source text."""

    name: str
    annotation: str
    default: Any


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    try:
        return ast.literal_eval(node)
    except ValueError:
        return REQUIRED


def _is_classvar(annotation: str) -> bool:
    return annotation.startswith(("ClassVar", "typing.ClassVar"))


def read_class(node: ast.ClassDef) -> tuple[tuple[Parameter, ...], dict[str, Any]]:
    parameters: list[Parameter] = []
    traits: dict[str, Any] = {}
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            annotation = ast.unparse(line.annotation)
            value = _literal(line.value)
            if _is_classvar(annotation):
                traits[line.target.id] = value
            else:
                parameters.append(Parameter(line.target.id, annotation, value))
        elif isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            traits[line.targets[0].id] = _literal(line.value)
    return tuple(parameters), traits


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(d).startswith(("dataclass", "dataclasses.dataclass")) for d in node.decorator_list)


def inherited(node: ast.ClassDef, tree: ast.Module) -> dict[str, Parameter]:
    """Fields of base classes that are dataclasses: those of the same file, and of mtlfleet where the file imports them
    by name. What else a class is made of is not looked for; its fields have to be declared again."""
    found: dict[str, Parameter] = {}
    for base in reversed(node.bases):
        name = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(name, ast.Name) and (there := _definition(name.id, tree)) is not None:
            parent, home = there
            found |= inherited(parent, home)
            if _is_dataclass(parent):
                found |= {p.name: p for p in read_class(parent)[0]}
    return found


def _definition(name: str, tree: ast.Module) -> tuple[ast.ClassDef, ast.Module] | None:
    """(class, its file) behind a name of a file; None when it comes from somewhere else than here or mtlfleet."""
    for line in tree.body:
        if isinstance(line, ast.ClassDef) and line.name == name:
            return line, tree
        if isinstance(line, ast.ImportFrom) and (line.module or "").startswith("mtlfleet."):
            for alias in line.names:
                if name == (alias.asname or alias.name):
                    return _definition(alias.name, _ours(line.module or ""))
    return None


@cache
def _ours(module: str) -> ast.Module:
    """The source of one of our modules, as a tree."""
    place = folder(module)
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(path.read_bytes(), filename=str(path))


def folder(package: str) -> Path:
    """The folder of one of our packages, found without importing it."""
    import mtlfleet

    return Path(next(iter(mtlfleet.__path__))).joinpath(*package.split(".")[1:])
