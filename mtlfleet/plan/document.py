"""A study file as data with a place for every key and value. Hostile files cost a bounded amount of work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from mtlfleet.errors import Place
from mtlfleet.plan.problems import Problems

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_NODES = 50_000
MAX_ALIASES = 200

Loc = tuple[str | int, ...]
_CORE = "tag:yaml.org,2002:"


class ReadingError(Exception):
    """The file cannot be turned into data; the reason is already among the problems."""


def has(data: Any, step: str | int) -> bool:
    """Whether a map has this key or a list this index."""
    if isinstance(data, list):
        return isinstance(step, int) and step < len(data)
    return isinstance(data, Mapping) and step in data


@dataclass
class Document:
    """What a file says and where. ``loc`` is a path of keys and indices, as in pydantic's errors."""

    name: str
    text: str
    data: Any = None
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)

    def key(self, loc: Loc) -> Place:
        """Place of the key at ``loc``; a list's entry has its first key's; else the nearest thing around it."""
        while loc and loc not in self.keys:
            if loc in self.values:
                entry = self.at(loc)
                first = next(iter(entry), None) if isinstance(entry, dict) else None
                return self.keys.get((*loc, first), self.values[loc]) if first is not None else self.values[loc]
            loc = loc[:-1]
        return self.keys.get(loc) or Place(self.name, 1, 1)

    def value(self, loc: Loc) -> Place:
        """Place of the value at ``loc``. A map's or list's own place is its key: that is what a reader looks for."""
        found = self.values.get(loc)
        if found is None:
            return self.key(loc)
        return found if not isinstance(self.at(loc), dict | list) else self.key(loc)

    def at(self, loc: Loc) -> Any:
        """The data at ``loc``, or None."""
        here: Any = self.data
        for step in loc:
            if not has(here, step):
                return None
            here = here[step]
        return here


def read_document(path: Path, problems: Problems) -> Document:
    """Read and parse one file. Raises ReadingError after adding what is wrong to ``problems``."""
    name = str(path)
    text = _text(path, name, problems)
    problems.source = text
    document = Document(name, text)
    try:
        _scan(name, text, problems)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ReusedAnchorWarning
            )  # YAML allows it: the later anchor counts from there on
            root = YAML(typ="rt", pure=True).compose(text)
    except ReaderError as error:
        line, column = _line_column(text, int(error.position))
        problems.add("E101", f"control character {error.character!r} in a study file", Place(name, line, column))
        raise ReadingError from None
    except MarkedYAMLError as error:
        _syntax(error, name, text, problems)
        raise ReadingError from None
    except (YAMLError, ValueError, RecursionError, AssertionError, IndexError, AttributeError, TypeError) as error:
        # ruamel lets a few internal errors out on garbage; to the reader they are all "not YAML"
        problems.add(
            "E102",
            f"not valid YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            Place(name, 1, 1),
        )
        raise ReadingError from None
    if root is None:
        problems.add(
            "E102", "the study file is empty", Place(name, 1, 1), help="mtlfleet schema prints what belongs in it"
        )
        raise ReadingError
    document.data = _Builder(document, problems).build(root, ())
    return document


def _text(path: Path, name: str, problems: Problems) -> str:
    try:
        size = path.stat().st_size
        if path.is_dir():
            problems.add("E100", f"{name} is a folder, expected a study file", None)
            raise ReadingError
        if size > MAX_BYTES:
            problems.add("E108", f"the file has {size:,} bytes, at most {MAX_BYTES:,} are read", Place(name, 1, 1))
            raise ReadingError
        raw = path.read_bytes()
    except OSError as error:
        problems.add("E100", f"cannot read {name}: {error.strerror or error}", None)
        raise ReadingError from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = raw[: error.start].decode("utf-8", "replace")
        line, column = _line_column(good, len(good))
        problems.source = raw.decode("utf-8", "replace")
        problems.add(
            "E101",
            "the file is not UTF-8 text",
            Place(name, line, column),
            notes=[f"byte 0x{raw[error.start]:02x} at offset {error.start}"],
        )
        raise ReadingError from None


def _line_column(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _syntax(error: MarkedYAMLError, name: str, text: str, problems: Problems) -> None:
    mark = error.problem_mark or error.context_mark
    lines = text.split("\n")
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    line = min(line, max(1, len(lines)))
    notes = []
    if error.context and error.context_mark:
        notes.append(
            f"{error.context}, begun at line {error.context_mark.line + 1}, column {error.context_mark.column + 1}"
        )
    problems.add("E102", f"not valid YAML: {error.problem or error}", Place(name, line, column), notes=notes)


def _scan(name: str, text: str, problems: Problems) -> None:
    """Look at the events before anything is built: depth, number of nodes and aliases, tags, directives."""
    depth = nodes = aliases = 0
    for event in YAML(typ="rt", pure=True).parse(text):
        kind = type(event).__name__
        mark = event.start_mark
        place = Place(name, mark.line + 1, mark.column + 1)
        if kind == "DocumentStartEvent" and (event.version not in (None, (1, 2)) or event.tags):
            problems.add("E107", "a study file is plain YAML 1.2: no %YAML or %TAG directives", place)
            raise ReadingError
        if kind in ("ScalarEvent", "SequenceStartEvent", "MappingStartEvent", "AliasEvent"):
            nodes += 1
            aliases += kind == "AliasEvent"
        if getattr(event, "tag", None):
            problems.add(
                "E107", f"YAML tag `{_short(str(event.tag))}` refused: a study file holds plain data only", place
            )
            raise ReadingError
        depth += {"SequenceStartEvent": 1, "MappingStartEvent": 1, "SequenceEndEvent": -1, "MappingEndEvent": -1}.get(
            kind, 0
        )
        for what, found, limit in (
            ("levels of nesting", depth, MAX_DEPTH),
            ("nodes", nodes, MAX_NODES),
            ("aliases", aliases, MAX_ALIASES),
        ):
            if found > limit:
                problems.add("E108", f"more than {limit:,} {what}", place)
                raise ReadingError


def _short(text: str) -> str:
    return text.replace(_CORE, "!!")


class _Builder:
    """Nodes to plain data, noting places; counts what aliases expand to."""

    def __init__(self, document: Document, problems: Problems) -> None:
        self.document, self.problems = document, problems
        self.nodes = 0
        self.open: set[int] = set()

    def build(self, node: Node, loc: Loc) -> Any:
        self.nodes += 1
        place = self._place(node)
        self.document.values[loc] = place
        if self.nodes > MAX_NODES or len(loc) > MAX_DEPTH or id(node) in self.open:
            what = (
                "an alias contains itself"
                if id(node) in self.open
                else f"aliases expand to more than {MAX_NODES:,} nodes"
            )
            self.problems.add("E108", what, place)
            raise ReadingError
        if isinstance(node, ScalarNode):
            return self._scalar(node, place)
        self.open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return dict(self._pairs(node, loc))
            assert isinstance(node, SequenceNode)
            return [self.build(item, (*loc, i)) for i, item in enumerate(node.value)]
        finally:
            self.open.discard(id(node))

    def _pairs(self, node: MappingNode, loc: Loc) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Place] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, ScalarNode) or key_node.tag == _CORE + "merge":
                merge = isinstance(key_node, ScalarNode)
                self.problems.add(
                    "E107",
                    "merge keys (`<<`) are not YAML 1.2" if merge else "a key must be plain text",
                    place,
                    help="write the entries out" if merge else None,
                )
                continue
            key = str(key_node.value)
            if key in seen:
                self.problems.add(
                    "E103",
                    f"duplicate key `{key}`",
                    place,
                    caret="given a second time",
                    notes=[f"first given at line {seen[key].line}, column {seen[key].column}"],
                )
                continue
            seen[key] = place
            self.document.keys[*loc, key] = place
            yield key, self.build(value_node, (*loc, key))

    def _place(self, node: Node) -> Place:
        start, end = node.start_mark, node.end_mark
        length = 1
        if isinstance(node, ScalarNode) and node.style not in ("|", ">"):
            length = end.column - start.column if end.line == start.line else len(str(node.value).split("\n")[0])
        return Place(self.document.name, start.line + 1, start.column + 1, max(1, length))

    def _scalar(self, node: ScalarNode, place: Place) -> Any:
        tag, text = str(node.tag).removeprefix(_CORE), str(node.value)
        try:
            if tag == "null":
                return None
            if tag == "bool":
                return text.lower() == "true"
            if tag == "int":
                return _integer(text)
            if tag == "float":
                number = float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
                if math.isfinite(number):
                    return number
                self.problems.add("E111", f"`{text}` is not a finite number", place)
                return None
        except ValueError:
            self.problems.add("E105", f"`{text[:40]}` is not a number that can be read", place)
            return None
        return text


def _integer(text: str) -> int:
    """An integer as YAML 1.2 writes it: ``017`` is seventeen, ``0o17`` is octal."""
    plain = text.replace("_", "").lower()
    sign, digits = (-1, plain[1:]) if plain.startswith("-") else (1, plain.removeprefix("+"))
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2], 10)
    number = sign * int(digits[2:] if base != 10 else digits, base)
    if abs(number) >= 1 << 63:
        raise ValueError("out of range")
    return number
