"""The study file's JSON Schema, in the draft 7 subset that YAML editors read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtlfleet.declarations import Entry
from mtlfleet.plan.scalars import ID_PATTERN
from mtlfleet.plan.schema import StudyFile
from mtlfleet.registry import builtin

_SECTIONS = {"methods": "method", "datasets": "dataset", "architectures": "architecture"}


def study_json_schema() -> dict[str, Any]:
    """The schema of a study file. Registry names are offered as completions, not enforced: a plug-in may add more."""
    schema = StudyFile.model_json_schema(by_alias=True)
    found: dict[str, Any] = _draft7(schema)
    definitions = found["definitions"]
    for section, kind in _SECTIONS.items():
        base = definitions[{"method": "MethodEntry", "dataset": "DatasetEntry"}.get(kind, "Citizen")]
        definitions[f"{kind}_entry"] = _citizen(base, kind)
        found["properties"][section]["patternProperties"] = {ID_PATTERN: {"$ref": f"#/definitions/{kind}_entry"}}
        found["properties"][section]["additionalProperties"] = False
    strategy = definitions["StrategyEntry"]["properties"]["use"]
    definitions["StrategyEntry"]["properties"]["use"] = {**strategy, **_names(builtin("strategy"))}
    del definitions["MethodEntry"], definitions["DatasetEntry"], definitions["Citizen"]
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "mtlfleet study", **found}


def _names(entries: Mapping[str, Entry]) -> dict[str, Any]:
    names = [n for e in entries.values() for n in (e.name, *(f"{e.name}@{p}" for p in e.presets))]
    known = [{"const": n, "description": entries[n.partition("@")[0]].summary} for n in names]
    return {"anyOf": [*known, {"type": "string"}]}


def _citizen(base: Mapping[str, Any], kind: str) -> dict[str, Any]:
    properties = dict(base["properties"])
    use = {k: v for k, v in properties["use"].items() if k not in ("type", "default")}
    properties["use"] = {**use, **_names(builtin(kind))}
    return {**base, "properties": properties}


def _draft7(node: Any) -> Any:
    """Without titles and null defaults, definitions where draft 7 has them."""
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {}
    for key, value in node.items():
        if (key == "title" and isinstance(value, str)) or (key == "default" and value is None):
            continue
        if key == "$ref":
            value = str(value).replace("#/$defs/", "#/definitions/")
        if key == "properties":
            found[key] = {name: _draft7(part) for name, part in value.items()}
        else:
            found["definitions" if key == "$defs" else key] = _draft7(value)
    return found
