"""Names to classes, found by being there.

A citizen (method, architecture, backbone, dataset, strategy) is a class in a file of its own under its package's
folder, or in a study's plug-in file, decorated with its kind and name: ``@method("cagrad")``. Two ways to look at it:

* the *catalogue* reads the source as text (``declarations``): names, hyper-parameters with defaults, traits. Nothing
  is imported, so a study file is validated in milliseconds and a plug-in's code does not run;
* *load* imports the file and gives the class.

The price of the first is a rule: hyper-parameter defaults and class-level traits are literals. A house test asserts
that the catalogue equals the imported classes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mtlfleet.declarations import KINDS, Entry, installed, plugin_path, read_file
from mtlfleet.errors import PluginError, UnknownName, among, nearest

T = TypeVar("T")

_by_source: dict[tuple[str, str, str, str], type[Any]] = {}  # (kind, name, path, source hash) -> class


def register(kind: str, name: str) -> Callable[[type[T]], type[T]]:
    """Decorator behind ``@method("x")`` and its siblings; the class keeps its own type."""
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}; found {kind!r}")

    def keep(cls: type[T]) -> type[T]:
        cls.name = name  # type: ignore[attr-defined]
        return cls

    return keep


def _folder(package: str) -> Path:
    """The folder of one of our packages, found without importing it."""
    import mtlfleet

    return Path(next(iter(mtlfleet.__path__))).joinpath(*package.split(".")[1:])


@cache
def builtin(kind: str) -> Mapping[str, Entry]:
    """Catalogue of the citizens that ship with mtlfleet, by name, sorted."""
    package = KINDS[kind]
    root = _folder(package)
    found: dict[str, Entry] = {}
    for path in sorted(root.rglob("*.py")):
        dotted = ".".join((package, *path.relative_to(root).with_suffix("").parts))
        for entry in read_file(path, dotted):
            if entry.kind == kind:
                found[entry.name] = entry
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Catalogue:
    """What a study may name: built-in citizens, those of installed packages, and those of its plug-ins."""

    plugins: tuple[str, ...] = ()
    base: Path = Path()

    def entries(self, kind: str) -> Mapping[str, Entry]:
        outside = {e.name: e for e in installed().entries if e.kind == kind}
        found = {**outside, **builtin(kind)}
        for plugin in self.plugins:
            module = None if plugin.endswith(".py") else plugin
            for entry in read_file(plugin_path(plugin, self.base), module):
                if entry.kind == kind:
                    found[entry.name] = entry
        return found

    def find(self, kind: str, name: str) -> Entry:
        """The entry for ``name``, ``name@preset``, or ``library.part``: an entry with the trait ``member`` names the
        parameter that takes the part. Raises UnknownName with the nearest name."""
        plain, _, preset = name.partition("@")
        known = self.entries(kind)
        family = plain.partition(".")[0]
        if plain not in known and family in known and "member" in known[family].traits:
            return known[family]
        if plain not in known:
            raise unknown(kind, plain, known, notes=[f"cannot be read: {lost}" for lost in installed().lost])
        entry = known[plain]
        if preset and preset not in entry.presets:
            raise unknown(f"preset of {plain}", preset, entry.presets)
        return entry

    def parameters(self, kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults, then the preset's values, then what was given: the full set that enters a trial's key."""
        entry = self.find(kind, name)
        plain, _, preset = name.partition("@")
        part = plain.removeprefix(f"{entry.name}.")
        member = {entry.traits["member"]: part} if part != plain else {}
        return {**entry.defaults, **member, **(entry.presets.get(preset, {}) if preset else {}), **given}

    def load(self, kind: str, name: str) -> type[Any]:
        """Import the file of a citizen and give its class."""
        entry = self.find(kind, name)
        # Two plug-in files may give one name to different classes; the source tells them apart.
        key = (kind, entry.name, str(entry.path), entry.source_sha256)
        if key not in _by_source:
            _by_source[key] = _import(entry)
        return _by_source[key]


def unknown(kind: str, name: str, known: Iterable[str], notes: Iterable[str] = ()) -> UnknownName:
    names = sorted(known)
    close = nearest(name, names)
    hint = f"did you mean `{close}`?" if close else None
    return UnknownName(f"no {kind} is called `{name}`", notes=[among(names, name), *notes], help=hint)


def _import(entry: Entry) -> type[Any]:
    """The class an entry describes, from its module or file."""
    try:
        if entry.module is not None:
            module = importlib.import_module(entry.module)
        else:
            name = f"mtlfleet_plugin_{entry.path.stem}_{entry.source_sha256[:12]}"
            spec = importlib.util.spec_from_file_location(name, entry.path)
            if spec is None or spec.loader is None:
                raise ImportError(f"cannot import {entry.path}")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        found: type[Any] = getattr(module, entry.class_name)
        return found
    except Exception as error:
        where = entry.module or str(entry.path)
        raise PluginError(
            f"{entry.kind} `{entry.name}` could not be imported from {where}: {type(error).__name__}: {error}",
            notes=[f"declared in {entry.path}"],
        ) from error


def find(kind: str, name: str) -> Entry:
    """A built-in citizen's entry."""
    return Catalogue().find(kind, name)


def load(kind: str, name: str) -> type[Any]:
    """A built-in citizen's class."""
    return Catalogue().load(kind, name)


def build(kind: str, name: str, **given: Any) -> Any:
    """A built-in citizen, constructed with its defaults, its preset's values and what is given."""
    catalogue = Catalogue()
    return catalogue.load(kind, name)(**catalogue.parameters(kind, name, given))
