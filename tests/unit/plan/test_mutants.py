"""Damaged study files: whatever is wrong, it is said with a place and without a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from mtlfleet.errors import Findings
from mtlfleet.plan import check
from mtlfleet.plan.problems import render

STUDIES = sorted((Path(__file__).parents[3] / "jobs" / "studies").glob("*.yaml"))
TEXTS = [path.read_text(encoding="utf-8") for path in STUDIES]
calm = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def sound(findings: Findings) -> None:
    lines = findings.source.count("\n") + 2
    for d in findings.diagnostics:
        assert d.place is not None and 1 <= d.place.line <= lines and d.place.column >= 1
        assert d.message and "Traceback" not in d.message
    assert "\x1b" not in render(findings)


def checked(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    sound(check(path))


@calm
@given(text=st.sampled_from(TEXTS), data=st.data())
def test_cut_and_swapped_bytes(tmp_path: Path, text: str, data: st.DataObject) -> None:
    content = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 30))
        content[start : start + length] = data.draw(
            st.binary(max_size=12) | st.text(":{}[],-#&*!|>'\"\n a1.", max_size=8).map(str.encode)
        )
    checked(tmp_path / "study.yaml", bytes(content))


@calm
@given(
    text=st.sampled_from(TEXTS),
    line=st.integers(0, 60),
    word=st.sampled_from(["", "-1", "null", "[]", "{}", "x", "1e400", "~", "0"]),
)
def test_a_line_with_another_value(tmp_path: Path, text: str, line: int, word: str) -> None:
    lines = text.splitlines()
    at = line % len(lines)
    lines[at] = lines[at].partition(":")[0] + ": " + word
    checked(tmp_path / "study.yaml", "\n".join(lines).encode())


leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@calm
@given(text=st.sampled_from(TEXTS), data=st.data())
def test_another_value_anywhere(tmp_path: Path, text: str, data: st.DataObject) -> None:
    tree: Any = YAML(typ="safe").load(text)
    here = tree
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(here[key], dict | list) or not here[key] or data.draw(st.booleans()):
            break
        here = here[key]
    here[key] = data.draw(values)
    path = tmp_path / "study.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(tree, file)
    sound(check(path))


@calm
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    checked(tmp_path / "study.yaml", content)


@calm
@given(content=st.text("abc:{}[],-#&*!|>'\"\n %@`?~01.", max_size=80))
def test_any_yaml_like_text(tmp_path: Path, content: str) -> None:
    checked(tmp_path / "study.yaml", content.encode())


def test_the_shipped_studies_are_sound() -> None:
    """Those on data that must be fetched say which variable leads to it, and nothing else."""
    assert {"smoke.yaml", "celeba.yaml"} <= {path.name for path in STUDIES}
    for path in STUDIES:
        fetched = "${env:" in path.read_text()
        assert {error.code for error in check(path).errors} == ({"E110"} if fetched else set()), path.name
