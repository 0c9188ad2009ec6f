"""From a document to the study's models; every mistake of shape at once, then on with what is left."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mtlfleet.errors import nearest
from mtlfleet.plan import literature
from mtlfleet.plan.document import Document, Loc, has
from mtlfleet.plan.hyperparameters import expectation, shown
from mtlfleet.plan.problems import Problems
from mtlfleet.plan.schema import SCHEMA, StudyFile
from mtlfleet.plan.trial import is_path

_ENV = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_IDS = "ids are lower-case letters, digits, `-` and `_`, start with a letter or digit, and have at most 63 characters"
_MAX_ROUNDS = 6
_MANDATORY: dict[str, tuple[str, str | None]] = {  # of every claim: the code when it is missing, and what it is
    "margin": ("E204", "margin: the smallest effect worth claiming, in the estimand's unit"),
    "scope": ("E210", "scope: these_datasets (other seeds), or datasets_like_these (other datasets of the kind)"),
}


def read_shape(document: Document, problems: Problems) -> Shaped | None:
    """The study's models and the places that were wrong. Wrong parts are left out, so that later checks still run on
    the rest; None when too little is left."""
    data = _expand(document, problems)
    if not isinstance(data, dict):
        problems.add(
            "E105", "a study file is a map of keys", document.value(()), caret="expected `schema:`, `study:`, ..."
        )
        return None
    kept, bad = _Kept(), set[Loc]()
    for loc in _include(data, document, problems):
        bad.add(loc)
        kept.drop(data, loc)
    for _ in range(_MAX_ROUNDS):
        try:
            model = StudyFile.model_validate_json(json.dumps(data))
            return Shaped(model, frozenset(bad), kept)
        except ValidationError as error:
            wrong = _distinct(error.errors(), data)
        drops: set[Loc] = set()
        for here, details in wrong:
            loc = kept.original(here)
            if not any(loc[: len(b)] == b for b in bad):
                _describe(loc, details, document, problems)
            bad.add(loc)
            drops.add(here if details["type"] != "missing" else here[:-1])
        if () in drops:
            return None
        for here in sorted(drops, key=_deepest_first):
            kept.drop(data, here)
    return None


def _deepest_first(loc: Loc) -> tuple[int, list[int]]:
    """Parts go before the whole, later list entries before earlier ones: what is still to drop keeps its place."""
    return -len(loc), [-step if isinstance(step, int) else 0 for step in loc]


class _Kept:
    """Which entry of the file each remaining list entry is."""

    def __init__(self) -> None:
        self.indices: dict[Loc, list[int]] = {}

    def original(self, loc: Loc) -> Loc:
        """A place in what is left as a place in the file."""
        found: Loc = ()
        for step in loc:
            if isinstance(step, int) and found in self.indices:
                step = self.indices[found][step]
            found = (*found, step)
        return found

    def drop(self, data: Any, loc: Loc) -> None:
        here = data
        for step in loc[:-1]:
            if not has(here, step):
                return
            here = here[step]
        if isinstance(here, dict):
            here.pop(loc[-1], None)
        elif isinstance(here, list) and isinstance(loc[-1], int) and loc[-1] < len(here):
            indices = self.indices.setdefault(self.original(loc[:-1]), list(range(len(here))))
            here.pop(loc[-1])
            indices.pop(loc[-1])


@dataclass(frozen=True)
class Shaped:
    """A study's models, the places in the file that were wrong, and the way from one to the other."""

    model: StudyFile
    bad: frozenset[Loc]
    kept: _Kept

    def sound(self, *loc: str | int) -> bool:
        """Whether nothing at, above or below a place of the file was wrong."""
        return not any(b[: len(loc)] == loc or loc[: len(b)] == b for b in self.bad)

    def original(self, *loc: str | int) -> Loc:
        return self.kept.original(loc)


def _expand(document: Document, problems: Problems) -> Any:
    """A copy of the data with ``${env:NAME}`` filled in where a path is meant, refused everywhere else."""

    def walk(value: Any, loc: Loc) -> Any:
        if isinstance(value, dict):
            return {k: walk(v, (*loc, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, (*loc, i)) for i, v in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return _environment(value, loc, document, problems)
        return value

    return walk(document.data, ())


def _include(data: dict[str, Any], document: Document, problems: Problems) -> list[Loc]:
    """Complete the claims taken from the literature; gives the places of those that do not exist, last first."""
    claims = data["claims"] if isinstance(data.get("claims"), list) else []
    unknown: list[Loc] = []
    for i, claim in enumerate(claims):
        if not isinstance(claim, dict) or not isinstance(claim.get("use"), str):
            continue
        try:
            claims[i] = literature.included(claim, data.get("methods"))
        except KeyError:
            close = nearest(claim["use"], literature.names())
            problems.add(
                "E215",
                f"no claim of the literature is called `{shown(claim['use'])}`",
                document.value(("claims", i, "use")),
                caret=f"did you mean `{close}`?" if close else "",
                notes=[f"papers: {', '.join(literature.papers())}"],
            )
            unknown.append(("claims", i))
    return unknown[::-1]


def _environment(value: str, loc: Loc, document: Document, problems: Problems) -> str:
    place = document.value(loc)
    path = loc in (("storage", "root"), ("mirrors", "mlflow"), ("mirrors", "tensorboard")) or (
        len(loc) == 4 and loc[0] == "datasets" and loc[2] == "params" and is_path(str(loc[3]))
    )
    if loc[-1:] == ("label",) or loc in (("title",), ("report", "title")) or loc[-1:] == ("question",):
        return value
    if not path:
        problems.add(
            "E110",
            f"`{shown(value)}`: environment variables are read only in paths",
            place,
            notes=["allowed in storage.root, in mirrors and in a dataset's parameters root, path, *_root, *_path"],
        )
        return value
    unset = [name for name in _ENV.findall(value) if name not in os.environ]
    for name in unset:
        problems.add("E110", f"environment variable `{name}` is not set", place, help=f"export {name}=...")
    if unset:
        return value  # as it stands: `unresolved` knows it, and nobody looks for files at half a path
    expanded = _ENV.sub(lambda m: os.environ[m[1]], value)
    if "${" in expanded:
        problems.add("E110", f"`{shown(value)}`: write ${{env:NAME}}", place)
    return expanded


def unresolved(value: object) -> bool:
    """Whether a path still names an environment variable; E110 has said so."""
    return isinstance(value, str) and _ENV.search(value) is not None


def _distinct(errors: list[ErrorDetails], data: Any) -> list[tuple[Loc, ErrorDetails]]:
    """One error per place: pydantic reports every branch of a union, and says so inside ``loc``."""
    found: dict[Loc, ErrorDetails] = {}
    for details in errors:
        loc = _real(details["loc"], data, missing=details["type"] == "missing")
        if loc not in found or found[loc]["type"] == "none_required":
            found[loc] = details
    inner = {loc for loc, d in found.items() if d["type"] != "none_required"}
    return [
        (loc, d)
        for loc, d in found.items()
        if d["type"] != "none_required" or not any(i[: len(loc)] == loc and i != loc for i in inner)
    ]


def _real(loc: Loc, data: Any, *, missing: bool) -> Loc:
    """``loc`` without the words pydantic puts in for branches of a union."""
    real: list[str | int] = []
    here = data
    for n, step in enumerate(loc):
        if has(here, step):
            here = here[step]
        elif missing and n == len(loc) - 1:
            here = None
        else:
            continue
        real.append(step)
    return tuple(real)


def dotted(loc: Loc) -> str:
    """A place as people say it: ``claims[0].margin``."""
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in loc).lstrip(".") or "the study"


def _describe(loc: Loc, details: ErrorDetails, document: Document, problems: Problems) -> None:
    kind, value = details["type"], document.at(loc)
    if kind == "extra_forbidden":
        _unknown_key(loc, document, problems)
    elif kind == "missing":
        _missing(loc, document, problems)
    elif kind == "string_pattern_mismatch":
        is_key = details["loc"][-1] == "[key]"
        name = loc[-1] if is_key else value
        place = document.key(loc) if is_key else document.value(loc)
        problems.add("E109", f"`{shown(name)}` cannot be an id", place, notes=[_IDS])
    elif loc == ("schema",):
        problems.add(
            "E112", f"unknown schema `{shown(value)}`", document.value(loc), caret=f"this mtlfleet reads `{SCHEMA}`"
        )
    else:
        wants = expectation(details)
        close = (
            nearest(value, re.findall(r"'([^']+)'", details["msg"]))
            if kind == "literal_error" and isinstance(value, str)
            else None
        )
        caret = f"did you mean `{close}`?" if close else f"expected {wants}"
        code = "E204" if loc[:1] == ("claims",) and loc[-1] == "margin" else "E105"
        problems.add(
            code, f"`{dotted(loc)}`: expected {wants}, found {_found(value)}", document.value(loc), caret=caret
        )


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a map" if value else "an empty map"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"`{shown(value)}`"


def _unknown_key(loc: Loc, document: Document, problems: Problems) -> None:
    known = _keys_at(StudyFile, loc[:-1])
    close = nearest(str(loc[-1]), known)
    where = f"`{dotted(loc[:-1])}`" if loc[:-1] else "the study"
    problems.add(
        "E104",
        f"unknown key `{loc[-1]}` in {where}",
        document.key(loc),
        caret=f"did you mean `{close}`?" if close else "",
        notes=[f"{dotted(loc[:-1])} accepts: {', '.join(known)}"] if known else (),
    )


def _missing(loc: Loc, document: Document, problems: Problems) -> None:
    name, parent = str(loc[-1]), loc[:-1]
    claim = loc[:1] == ("claims",) and name in _MANDATORY
    message = f"`{dotted(parent)}` lacks `{name}`" if parent else f"the study lacks `{name}`"
    code, help_ = _MANDATORY[name] if claim else ("E106", None)
    if loc == ("schema",):
        help_ = f"schema: {SCHEMA}"
    problems.add(code, message, document.key(parent), caret=f"add `{name}:`", help=help_)


def _keys_at(model: Any, loc: Loc) -> list[str]:
    """The keys a map at ``loc`` may have, read off the models."""
    for step in loc:
        model = _inside(model, step)
        if model is None:
            return []
    model = _model(model)
    return [] if model is None else [f.alias or n for n, f in model.model_fields.items()]


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if (found := _model(part)) is not None:
            return found
    return None


def _inside(annotation: Any, step: str | int) -> Any:
    if get_origin(annotation) in (dict, list):
        return get_args(annotation)[-1]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {f.alias or n: f for n, f in annotation.model_fields.items()}
        return fields[str(step)].annotation if step in fields else None
    for part in get_args(annotation):
        if (found := _inside(part, step)) is not None:
            return found
    return None
