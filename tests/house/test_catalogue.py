"""What the catalogue reads from source text is what the imported classes are; and every method is documented alike."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pytest

from mtlfleet import registry, testing
from mtlfleet.declarations import REQUIRED

ENTRIES = [(kind, name) for kind in registry.KINDS for name in registry.builtin(kind)]
METHODS = list(registry.builtin("method"))


def test_there_is_something_to_check() -> None:
    assert {"method", "architecture", "backbone", "dataset", "strategy"} <= {kind for kind, _ in ENTRIES}


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_parameters_and_defaults(kind: str, name: str) -> None:
    entry, cls = registry.find(kind, name), registry.load(kind, name)
    assert is_dataclass(cls)
    declared: dict[str, Any] = {
        f.name: REQUIRED if f.default is MISSING and f.default_factory is MISSING else f.default
        for f in fields(cls)
        if f.init
    }
    assert {p.name: p.default for p in entry.parameters} == declared
    assert {p.name: p.annotation for p in entry.parameters} == {
        f.name: str(f.type).replace('"', "'") for f in fields(cls) if f.init
    }


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_traits_are_literals(kind: str, name: str) -> None:
    entry, cls = registry.find(kind, name), registry.load(kind, name)
    for trait, value in entry.traits.items():
        if trait.startswith("_"):
            continue
        assert value is not REQUIRED, f"{name}.{trait} is no literal, so the catalogue cannot show it"
        assert getattr(cls, trait) == value


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_presets_build(kind: str, name: str) -> None:
    entry = registry.find(kind, name)
    for preset, values in entry.presets.items():
        assert values.keys() <= {p.name for p in entry.parameters}
        built = registry.build(kind, f"{name}@{preset}")
        assert {key: getattr(built, key) for key in values} == values


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_the_summary_is_one_sentence(kind: str, name: str) -> None:
    summary = registry.find(kind, name).summary
    assert re.fullmatch(r"[A-Z0-9`].+\.", summary), summary


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_headings_and_a_golden_value(name: str) -> None:
    cls = registry.load("method", name)
    found = testing.sections(cls)
    assert tuple(found) == testing.HEADINGS
    assert all(found.values()), found
    assert re.search(r"\b(19|20)\d\d\b", found["Source"]), "a source has a year"
    assert set(testing.properties(cls)) <= set(testing.DECLARED)
    assert ">>>" in (cls.__doc__ or ""), "a doctest is the method's golden value"
    assert cls.__dataclass_params__.frozen


@pytest.mark.parametrize("name", METHODS)
def test_hyper_parameters_are_explained(name: str) -> None:
    cls = registry.load("method", name)
    missing = [f.name for f in fields(cls) if f"``{f.name}``" not in (cls.__doc__ or "")]
    assert not missing, f"{name}: the docstring does not say what {', '.join(missing)} does"
