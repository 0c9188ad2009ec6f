"""A study on its way: names resolved, parameters completed, facts read. Mistakes go to ``problems``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from mtlfleet.declarations import REQUIRED, Entry, installed, plugin_path, read_file
from mtlfleet.errors import FleetError, PluginError, UnknownName, among, nearest
from mtlfleet.plan.axes import read_axis
from mtlfleet.plan.conventions import laid_over
from mtlfleet.plan.document import Document, Loc
from mtlfleet.plan.hyperparameters import adapter, coerce_with, complaint, shown
from mtlfleet.plan.problems import Problems
from mtlfleet.plan.schema import Distribution
from mtlfleet.plan.shape import Shaped, unresolved
from mtlfleet.plan.space import MAX_CONTINUOUS, Axis, Space
from mtlfleet.plan.tasks import Facts
from mtlfleet.plan.trial import Recipe, Spec
from mtlfleet.registry import Catalogue

SECTIONS: Mapping[str, str] = {"method": "methods", "dataset": "datasets", "architecture": "architectures"}
SEARCHABLE = ("optimizer", "lr", "weight_decay", "momentum", "global_batch", "schedule", "warmup_steps", "clip_norm")
RECIPE_TYPES: Mapping[str, TypeAdapter[Any]] = {
    name: TypeAdapter(hint, config=ConfigDict(strict=True))
    for name, hint in get_type_hints(Recipe, include_extras=True).items()
}


@dataclass
class Draft:
    """What is known of a study file so far, with its mistakes."""

    path: Path
    document: Document
    shaped: Shaped
    problems: Problems
    import_plugins: bool
    catalogue: Catalogue = field(default_factory=Catalogue)
    plugins_sound: bool = True
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    specs: dict[tuple[str, str], Spec] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    common: Space = field(default_factory=Space)
    own: dict[str, Space] = field(default_factory=dict)
    spaces_sound: bool = True

    def ids(self, kind: str) -> list[str]:
        """Every id the file gives to things of a kind, sound or not."""
        section = self.document.at((SECTIONS[kind],))
        return [str(k) for k in section] if isinstance(section, dict) else []

    def single_task(self, method: str) -> bool:
        entry = self.entries.get(("method", method))
        return entry is not None and (entry.name == "stl" or entry.traits.get("single_task") is True)

    def resolve(self) -> None:
        self._plugins()
        study = self.shaped.model
        for kind, section in SECTIONS.items():
            for name, entry in getattr(study, section).items():
                self._citizen(kind, name, entry.use, entry.params, (section, name))
        self._citizen("strategy", "strategy", study.strategy.use, study.strategy.params, ("strategy",))
        for name in study.datasets:
            self._facts(name)
        self._spaces()

    def _plugins(self) -> None:
        sound = []
        for i, plugin in enumerate(self.shaped.model.plugins):
            place = self.document.value(self.shaped.original("plugins", i))
            try:
                if plugin.endswith(".py") and escapes(plugin):
                    self.problems.add(
                        "E410",
                        f"plug-in `{shown(plugin)}` leaves the study's folder",
                        place,
                        help="put the file beside the study, or install it and name its module",
                    )
                    raise PluginError("outside")
                module = None if plugin.endswith(".py") else plugin
                read_file(plugin_path(plugin, self.path.parent), module)
                sound.append(plugin)
            except (PluginError, ValueError, OSError, RecursionError, ImportError) as error:
                self.plugins_sound = False
                if str(error) != "outside":
                    parsed = "not valid Python" in str(error)
                    notes = error.notes if isinstance(error, PluginError) else ()
                    message = error.message if isinstance(error, PluginError) else f"plug-in `{shown(plugin)}`: {error}"
                    self.problems.add("E304" if parsed else "E303", message, place, notes=notes)
        self.catalogue = Catalogue(tuple(sound), self.path.parent)
        for lost in installed().lost:
            self.problems.warn("W506", str(lost), None, notes=["names that it declares are unknown here"])

    def _citizen(self, kind: str, name: str, use: str | None, params: Mapping[str, Any], loc: Loc) -> None:
        wanted = use if use is not None else name
        place = self.document.value((*loc, "use")) if (*loc, "use") in self.document.values else self.document.key(loc)
        try:
            entry = self.catalogue.find(kind, wanted)
        except UnknownName as error:
            if self.plugins_sound:
                close = error.help or ""
                self.problems.add(
                    "E301",
                    error.message,
                    place,
                    caret=close,
                    notes=error.notes,
                    help=f"mtlfleet {kind}s list" if kind in SECTIONS else None,
                )
            return
        self.entries[kind, name] = entry
        full = self._params(entry, wanted, params, (*loc, "params"))
        if full is None:
            return
        fingerprint = "" if entry.builtin else entry.source_sha256
        # a preset is its values: `cagrad@nash` and the same numbers written out are the same run
        spec = Spec(name, entry.name, full, fingerprint)
        if kind == "method":
            spec = laid_over(spec, entry, self.shaped.model.methods[name], self.document, self.problems)
        self.specs[kind, name] = spec

    def _params(self, entry: Entry, wanted: str, given: Mapping[str, Any], loc: Loc) -> dict[str, Any] | None:
        """Complete, converted parameters; None if one is wrong."""
        known = {p.name: p for p in entry.parameters}
        sound = True
        for key, value in given.items():
            sound &= self.check_param(entry, key, value, (*loc, key))
        values = self.catalogue.parameters(entry.kind, wanted, given)
        lacking = [
            n for n, p in known.items() if p.default is REQUIRED and n not in values and not self._searched(loc, n)
        ]
        for name in lacking:
            self.problems.add(
                "E106",
                f"{entry.kind} `{entry.name}` needs `{name}`",
                self.document.key(loc),
                caret=f"add `params: {{{name}: ...}}`",
                notes=[f"{name}: {known[name].annotation}"],
            )
        if lacking or not sound:
            return None
        return {n: self._converted(known[n].annotation, v) for n, v in values.items() if n in known}

    def _searched(self, loc: Loc, name: str) -> bool:
        space = self.document.at((*loc[:-1], "space"))
        return isinstance(space, dict) and name in space

    @staticmethod
    def _converted(annotation: str, value: Any) -> Any:
        return value if complaint(adapter(annotation), value) else coerce_with(adapter(annotation), value)

    def check_param(self, entry: Entry, key: str, value: Any, loc: Loc) -> bool:
        """Whether a citizen has a parameter and the value fits it; says so if not."""
        parameter = self.parameter(entry, key, loc)
        if parameter is None:
            return False
        wants = complaint(adapter(parameter), value)
        if wants is not None:
            self.problems.add(
                "E105",
                f"`{key}` of {entry.kind} `{entry.name}`: expected {wants}, found `{shown(value)}`",
                self.document.value(loc),
                caret=f"expected {wants}",
            )
            return False
        if key == "backbone" and isinstance(value, str) and value not in (known := self.catalogue.entries("backbone")):
            close = nearest(value, known)
            self.problems.add(
                "E301",
                f"no backbone is called `{shown(value)}`",
                self.document.value(loc),
                caret=f"did you mean `{close}`?" if close else "",
                notes=[among(known, value)],
            )
            return False
        return True

    def parameter(self, entry: Entry, key: str, loc: Loc) -> str | None:
        """The annotation of a parameter; None after saying that there is none."""
        self.spaces_sound &= "space" not in loc or any(p.name == key for p in entry.parameters)
        for parameter in entry.parameters:
            if parameter.name == key:
                return parameter.annotation
        names = [p.name for p in entry.parameters]
        close = nearest(key, names)
        self.problems.add(
            "E104",
            f"unknown key `{shown(key)}` in {entry.kind} `{entry.name}`",
            self.document.key(loc),
            caret=f"did you mean `{close}`?" if close else "",
            notes=[f"{entry.name} accepts: {', '.join(names) or 'no parameters'}"],
            help=f"mtlfleet {entry.kind}s show {entry.name}" if entry.kind in SECTIONS else None,
        )
        return None

    def _facts(self, name: str) -> None:
        spec, entry = self.specs.get(("dataset", name)), self.entries.get(("dataset", name))
        if spec is None or entry is None:
            return
        if any(map(unresolved, spec.params.values())):
            return
        place = self.document.key(("datasets", name))
        if not entry.builtin and not self.import_plugins:
            self.problems.warn(
                "W504",
                f"dataset `{name}` is a plug-in's: its tasks are looked at by `plan` and `launch`",
                place,
                notes=["validate runs no plug-in code"],
            )
            return
        try:
            found = self.catalogue.load("dataset", entry.name)(**spec.params).facts()
        except FleetError as error:
            self.problems.add("E305", f"dataset `{name}`: {error.message}", place, notes=error.notes, help=error.help)
            return
        except (
            Exception
        ) as error:  # a dataset may be anyone's code; whatever it raises is about this entry of the study
            self.problems.add("E305", f"dataset `{name}` cannot be used: {type(error).__name__}: {error}", place)
            return
        fingerprint = found.fingerprint if entry.builtin else f"{found.fingerprint}+{entry.source_sha256}"
        self.facts[name] = found
        self.specs["dataset", name] = Spec(name, spec.use, spec.params, fingerprint)

    def _spaces(self) -> None:
        study = self.shaped.model
        axes: dict[str, Axis] = {}
        for key, given in (study.search.space if study.search else {}).items():
            if (axis := self._common_axis(key, given, ("search", "space", key))) is not None:
                axes[key] = axis
        self.common = Space.of(axes)
        for name, method in study.methods.items():
            entry = self.entries.get(("method", name))
            own: dict[str, Axis] = {}
            for key, given in method.space.items() if entry else ():
                loc: Loc = ("methods", name, "space", key)
                annotation = self.parameter(entry, key, loc) if entry else None
                if annotation is not None and (axis := self._axis(given, adapter(annotation), loc)) is not None:
                    own["method." + key] = axis
            self.own[name] = Space.of(own, after=self.common, purpose="own")
            if len(self.common.continuous) + len(self.own[name].continuous) > MAX_CONTINUOUS:
                self.problems.add(
                    "E406",
                    f"more than {MAX_CONTINUOUS} continuous axes for `{name}`",
                    self.document.key(("methods", name)),
                )

    def _axis(self, given: Distribution, kind: TypeAdapter[Any], loc: Loc) -> Axis | None:
        axis = read_axis(
            given, lambda v: complaint(kind, v), lambda v: coerce_with(kind, v), loc, self.document, self.problems
        )
        self.spaces_sound &= axis is not None
        return axis

    def _common_axis(self, key: str, given: Distribution, loc: Loc) -> Axis | None:
        scope, _, name = key.partition(".")
        if scope == "train" and name in SEARCHABLE:
            return self._axis(given, RECIPE_TYPES[name], loc)
        if scope == "architecture":
            axis = None
            for architecture in self.shaped.model.architectures:
                entry = self.entries.get(("architecture", architecture))
                annotation = self.parameter(entry, name, loc) if entry else None
                if annotation is None or (axis := self._axis(given, adapter(annotation), loc)) is None:
                    return None
            return axis
        known = [f"train.{n}" for n in SEARCHABLE]
        close = nearest(key, known)
        equal = scope == "train" and name in RECIPE_TYPES
        self.spaces_sound = False
        self.problems.add(
            "E406",
            f"`{shown(key)}` cannot be searched",
            self.document.key(loc),
            caret=f"did you mean `{close}`?" if close and not equal else "",
            notes=[
                "every configuration trains equally long"
                if equal
                else f"common axes: {', '.join(known)}, architecture.*",
                "a method's own hyper-parameters belong into its own `space`",
            ],
        )
        return None


def escapes(path: str) -> bool:
    """Whether a relative path leads out of its folder, or is absolute."""
    depth = 0
    for part in PurePosixPath(path).parts:
        depth += {"..": -1, ".": 0, "/": -1_000}.get(part, 1)
        if depth < 0:
            return True
    return False
