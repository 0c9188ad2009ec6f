"""constraints.txt pins what pyproject.toml asks for, inside its ranges."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    if version
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ASKED = [Requirement(text) for text in (*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values()))]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_dependency_is_pinned_inside_its_range(asked: Requirement) -> None:
    assert asked.specifier.contains(PINS[canonicalize_name(asked.name)])


def test_torch_is_the_version_the_makefile_installs_first() -> None:
    assert f"torch=={PINS[canonicalize_name('torch')]}" in (ROOT / "Makefile").read_text()
