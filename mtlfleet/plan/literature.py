"""Claims that papers make, kept beside the analysis and taken into a study by name: ``use: kurin2022/pcgrad``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

KEYS = frozenset({"source", "asserts", "departures", "claims"})


def folder() -> Path:
    """Where the files are, in a checkout and in an installed package alike."""
    found = find_spec("mtlfleet_analysis")
    assert found is not None and found.origin is not None, "mtlfleet ships mtlfleet_analysis"
    return Path(found.origin).parent / "claims"


def papers() -> tuple[str, ...]:
    """Names of the papers that are there."""
    return tuple(sorted(path.stem for path in folder().glob("*.yaml")))


@cache
def paper(name: str) -> Mapping[str, Any]:
    """One file as data: ``source``, ``asserts``, ``departures`` from the paper, ``claims`` by name."""
    found: Mapping[str, Any] = YAML(typ="safe", pure=True).load((folder() / f"{name}.yaml").read_text("utf-8"))
    return found


def names() -> tuple[str, ...]:
    """Every claim as ``paper/claim``."""
    return tuple(f"{name}/{claim}" for name in papers() for claim in paper(name)["claims"])


def entry(name: str, methods: Mapping[str, str]) -> dict[str, Any]:
    """A claim of the literature as an entry of ``claims:``, in the study's names.

    ``methods``: the study's ids -> registry names. Where no id equals a method's registry name, the one id that uses it
    stands in; where there is none or more than one, the registry name stays and is reported as unknown.
    Raises KeyError for a name that is not there.
    """
    where, _, claim = name.partition("/")
    if where not in papers():
        raise KeyError(name)
    given = dict(paper(where)["claims"][claim])
    given["method"] = _here(given["method"], methods)
    baseline = dict(given["baseline"])
    for key, value in baseline.items():
        if key in ("method", "best_of", "sweep"):
            baseline[key] = [_here(m, methods) for m in value] if isinstance(value, list) else _here(value, methods)
    return {"id": f"{where}_{claim}", **given, "baseline": baseline}


def _here(name: str, methods: Mapping[str, str]) -> str:
    if name in methods:
        return name
    users = [given for given, use in methods.items() if use == name]
    return users[0] if len(users) == 1 else name


def included(given: Mapping[str, Any], methods: Any) -> dict[str, Any]:
    """The entry of a study that says ``use``, completed; its own keys win. Raises KeyError for an unknown name."""
    known = {}
    for name, method in methods.items() if isinstance(methods, dict) else ():
        use = method.get("use") if isinstance(method, dict) else None
        known[str(name)] = str(use if isinstance(use, str) else name).partition("@")[0]
    return {**entry(str(given["use"]), known), **given}
