"""Which rows count, against a brute-force oracle, from segments and from the published file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mtlfleet.store import AttemptWriter, Ingester, Store

# Each attempt: the step it restored, the steps it then wrote rows for, and how many of its later steps it writes only
# after the next attempts were claimed (a zombie).
attempts = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=5)


def counting(history: list[tuple[int, int, int]]) -> set[tuple[int, int]]:
    """(attempt, step) of the rows that count, read off the definition."""
    found = set()
    for a, (restored, length, late) in enumerate(history, start=1):
        for step in range(restored + 1, restored + length + late + 1):
            if all(step <= later for later, _, _ in history[a:]):
                found.add((a, step))
    return found


@settings(max_examples=15, deadline=None)
@given(history=attempts, ingest_after=st.integers(0, 5))
def test_rows_that_count_are_those_of_the_definition(history: list[tuple[int, int, int]], ingest_after: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        writers = []
        with Ingester(root) as ingester:
            for number, (restored, length, _) in enumerate(history):
                writer = AttemptWriter.claim(
                    root, "s", "t", restored_step=restored, restored_checkpoint=None, world_size=1
                )
                for step in range(restored + 1, restored + length + 1):
                    writer.metric(step, 0.0, "train", "a", "loss", float(step))
                writer.flush()
                writers.append(writer)
                if number == ingest_after:
                    ingester.run_once()
                    ingester.publish()
            for writer, (restored, length, late) in zip(writers, history, strict=True):
                for step in range(restored + length + 1, restored + length + late + 1):
                    writer.metric(step, 0.0, "train", "a", "loss", float(step))
                writer.flush()
                writer.abandon()
            expected = counting(history)
            store = Store(root)
            for use_snapshot in (True, False):
                with store.session(use_snapshot=use_snapshot) as session:
                    assert rows(session.sql("SELECT attempt, step FROM metrics").to_pylist()) == sorted(expected)
            ingester.run_once()
            ingester.publish()
            assert rows(store.sql("SELECT attempt, step FROM metrics").to_pylist()) == sorted(expected)


def rows(found: list[dict[str, int]]) -> list[tuple[int, int]]:
    return sorted((r["attempt"], r["step"]) for r in found)
