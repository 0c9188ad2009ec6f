"""Small files, small functions, nouns for names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "mtlfleet").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])
FILE_LINES, FUNCTION_LINES = 330, 45
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_keep_their_budget(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES
    long = {f"{f.name}:{f.lineno}": length(f) for f in functions(ast.parse(text)) if length(f) > FUNCTION_LINES}
    assert not long


def test_modules_are_called_by_nouns() -> None:
    assert len(FILES) > 40
    assert not [name(path) for path in FILES if VAGUE & {*path.relative_to(ROOT).parts[:-1], *path.stem.split("_")}]


def test_length_leaves_out_the_docstring() -> None:
    source = 'def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'
    (function,) = functions(ast.parse(source))
    assert length(function) == 2
