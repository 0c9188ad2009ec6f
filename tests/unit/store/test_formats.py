"""An answer in every form, and text that must not do anything where it lands."""

from __future__ import annotations

import csv
import io
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlfleet.store.formats import FORMATS, harmless, write
from mtlfleet.store.plain_text import plain

TABLE = pa.table(
    {
        "name": ["x", '=HYPERLINK("http://a")', "a|b\n\x1b[31m", None],
        "value": [1.5, math.nan, -math.inf, None],
        "n": [1, 2, -3, None],
        "tasks": [["a", "b"], [], None, ["c"]],
    }
)


def written(kind: str) -> bytes:
    out = io.BytesIO()
    write(kind, TABLE.to_reader(), out)
    return out.getvalue()


def test_binary_forms_keep_every_bit() -> None:
    for found in (pq.read_table(io.BytesIO(written("parquet"))), pa.ipc.open_stream(written("arrow")).read_all()):
        assert repr(found.to_pylist()) == repr(TABLE.to_pylist())


def test_json_is_strict_and_complete() -> None:
    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is not JSON")

    rows = json.loads(written("json"), parse_constant=refuse)
    assert [json.loads(line, parse_constant=refuse) for line in written("jsonl").splitlines()] == rows
    assert rows[1]["value"] == "NaN" and rows[2]["value"] == "-Infinity" and rows[3]["value"] is None
    assert rows[0] == {"name": "x", "value": 1.5, "n": 1, "tasks": ["a", "b"]}
    assert json.loads(written("json").decode()) == rows


def test_csv_reads_back_and_computes_nothing() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv").decode(), newline="")))
    assert [r["value"] for r in rows] == ["1.5", "nan", "-inf", ""]
    assert rows[1]["name"] == '\'=HYPERLINK("http://a")'
    assert rows[2]["n"] == "-3"
    assert list(csv.DictReader(io.StringIO(written("tsv").decode(), newline=""), delimiter="\t")) == rows


@pytest.mark.parametrize("kind", ["table", "markdown", "latex"])
def test_text_for_people_has_one_line_per_row_and_no_escapes(kind: str) -> None:
    text = written(kind).decode()
    assert "\x1b" not in text
    assert len(text.splitlines()) == {"table": 6, "markdown": 6, "latex": 10}[kind]


def test_markdown_and_latex_are_escaped() -> None:
    assert "a\\|b" in written("markdown").decode()
    assert "=HYPERLINK" in written("latex").decode()


def test_an_empty_answer_is_valid_everywhere() -> None:
    for kind in FORMATS:
        out = io.BytesIO()
        assert write(kind, TABLE.slice(0, 0).to_reader(), out) == 0
        if kind == "json":
            assert json.loads(out.getvalue()) == []


@given(st.text())
def test_no_control_character_survives(text: str) -> None:
    for kept in (plain(text), plain(text, keep_lines=True).replace("\n", "").replace("\t", "")):
        assert all(c >= " " and not "\x7f" <= c <= "\x9f" for c in kept)


@given(st.text(alphabet="ab \x1b[]0123;mH\x07\\P"))
def test_no_escape_sequence_survives(text: str) -> None:
    assert "\x1b" not in plain(text)


@given(st.text())
def test_no_cell_starts_a_formula(text: str) -> None:
    assert not harmless(text).startswith(("=", "+", "-", "@", "\t", "\r"))
