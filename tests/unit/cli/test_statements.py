from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlfleet.cli.statements import split

PIECES = ("SELECT 1", "SELECT ';'", "SELECT 'it''s; a'", 'SELECT 1 AS "a;b"', "SELECT /* ; */ 2", "SELECT $$a;b$$",
          "SELECT 3 - 1", "SELECT 1 -- a; b\n", "SELECT 8 / 2")  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=5))
def test_statements_are_cut_where_duckdb_cuts_them(pieces: list[str]) -> None:
    text = "; ".join([*pieces, ""])
    found, rest = split(text)
    assert rest == ""
    with duckdb.connect(":memory:") as con:
        assert len(con.extract_statements(text)) == len(found) == len(pieces)
        answers = [con.execute(s).fetchall() for s in found]
        assert answers == [con.execute(p).fetchall() for p in pieces]


@pytest.mark.parametrize("text", ["SELECT 'a;", 'SELECT "a;', "SELECT /* ;", "SELECT $$ ;", "SELECT 1"])
def test_what_is_not_finished_waits(text: str) -> None:
    assert split(text) == ([], text)
    assert split("SELECT 1; " + text) == (["SELECT 1"], text)
