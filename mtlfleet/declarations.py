"""What a source file declares, read as text: nothing is imported.

Names of citizens, hyper-parameters with defaults, class-level literals, first docstring line. Also where a plug-in's
source lies: a file beside the study, a dotted module, or what the entry points of installed packages name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mtlfleet.errors import PluginError

KINDS: Mapping[str, str] = {
    "method": "mtlfleet.methods",
    "architecture": "mtlfleet.architectures",
    "backbone": "mtlfleet.architectures.backbones",
    "dataset": "mtlfleet.datasets",
    "strategy": "mtlfleet.strategies",
}


GROUP = "mtlfleet.plugins"  # of entry points: a package's modules that declare citizens


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


@dataclass(frozen=True)
class Entry:
    """One citizen as its source declares it."""

    kind: str
    name: str
    class_name: str
    path: Path
    module: str | None
    family: str
    summary: str
    parameters: tuple[Parameter, ...]
    traits: Mapping[str, Any] = field(hash=False)
    source_sha256: str = ""

    @property
    def builtin(self) -> bool:
        return self.module is not None and self.module.startswith("mtlfleet.")

    @property
    def defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.parameters if p.default is not REQUIRED}

    def batches(self, params: Mapping[str, Any]) -> int:
        """Batches that a step of this method draws in all, with these parameters; as far as its own source says."""
        looked_at = params.get("batches", self.traits.get("batches", 1))
        return int(looked_at) + int(self.traits.get("outer_batches", 0))

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        found = self.traits.get("presets", {})
        return found if isinstance(found, Mapping) else {}


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    try:
        return ast.literal_eval(node)
    except ValueError:
        return REQUIRED


def _is_classvar(annotation: str) -> bool:
    return annotation.startswith(("ClassVar", "typing.ClassVar"))


def _read_class(node: ast.ClassDef) -> tuple[tuple[Parameter, ...], dict[str, Any]]:
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


def _declared(node: ast.ClassDef) -> tuple[str, str] | None:
    """(kind, name) of a decorated citizen, else None."""
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call) or not decorator.args:
            continue
        called = decorator.func
        kind = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
        first = decorator.args[0]
        if kind in KINDS and isinstance(first, ast.Constant) and isinstance(first.value, str):
            return kind, first.value
    return None


@cache
def read_file(path: Path, module: str | None) -> tuple[Entry, ...]:
    """Every citizen a source file declares, without importing it. Raises PluginError when it is not Python."""
    text = path.read_bytes()
    try:
        tree = ast.parse(text, filename=str(path))
    except SyntaxError as error:
        raise PluginError(
            f"{path}:{error.lineno}:{error.offset}: not valid Python: {error.msg}",
            help="mend the file; nothing of it was run",
        ) from None
    digest = hashlib.sha256(text).hexdigest()
    entries = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        declared = _declared(node)
        if declared is None:
            continue
        parameters, traits = _read_class(node)
        summary = (ast.get_docstring(node) or "").partition("\n")[0]
        entries.append(
            Entry(
                declared[0], declared[1], node.name, path, module, path.parent.name, summary, parameters, traits, digest
            )
        )
    return tuple(entries)


def plugin_path(plugin: str, base: Path) -> Path:
    """The file behind a plug-in's name: ``./tilt.py`` relative to the study, or a dotted module, located without
    running it."""
    if plugin.endswith(".py"):
        path = (base / plugin).resolve()
        if path.is_file():
            return path
        raise PluginError(f"plug-in file not found: {plugin}", notes=[f"looked for {path}"])
    top, *rest = plugin.split(".")
    spec = importlib.util.find_spec(top)
    places = list(spec.submodule_search_locations or []) if spec else []
    origin = Path(spec.origin) if spec and spec.origin else None
    for place in places:
        candidate = Path(place).joinpath(*rest)
        for path in (candidate.with_suffix(".py"), candidate / "__init__.py"):
            if path.is_file():
                return path
    if not rest and origin is not None and origin.is_file():
        return origin
    raise PluginError(f"plug-in module not found: {plugin}", notes=[f"searched {len(sys.path)} entries of sys.path"])


@dataclass(frozen=True)
class Lost:
    """An entry point whose module cannot be read, and why, in one line."""

    point: str
    package: str
    module: str
    reason: str

    def __str__(self) -> str:
        return f"plug-in `{self.point}` of the installed package {self.package} ({self.module}): {self.reason}"


@dataclass(frozen=True)
class Installed:
    """Citizens of installed packages, and the entry points that gave none."""

    entries: tuple[Entry, ...]
    lost: tuple[Lost, ...]


@cache
def installed() -> Installed:
    """What the entry points of the group ``mtlfleet.plugins`` name: located and read, not imported. One that cannot be
    read hides nothing else; whoever lists names, or looks for one that is not there, says so."""
    found: dict[str, tuple[Entry, ...]] = {}
    lost = []
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: (p.module, p.name)):
        try:
            found[point.module] = read_file(plugin_path(point.module, Path()), point.module)
        except (PluginError, OSError, ValueError, ImportError) as error:
            package = f"{point.dist.name} {point.dist.version}" if point.dist else "?"
            lost.append(Lost(point.name, package, point.module, str(error).partition("\n")[0]))
    return Installed(tuple(e for entries in found.values() for e in entries), tuple(lost))
