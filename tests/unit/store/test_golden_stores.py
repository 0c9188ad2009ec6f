"""Stores written by earlier versions open in this one and say what they said then."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from mtlfleet.store import Ingester, Store, digest, examine

DATA = Path(__file__).parents[2] / "data"
STORES = sorted(p.name.removesuffix(".tar.gz") for p in DATA.glob("store-v*.tar.gz"))


def answer(root: Path) -> dict[str, object]:
    board = Store(root).rows("SELECT * FROM leaderboard ORDER BY ALL")
    return {"digest": digest(Store(root), "s"), "leaderboard": [{k: str(v) for k, v in row.items()} for row in board]}


@pytest.mark.parametrize("name", STORES)
def test_a_store_of_an_earlier_version_says_what_it_said(tmp_path: Path, name: str) -> None:
    with tarfile.open(DATA / f"{name}.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    root = tmp_path / "store"
    told = json.loads((DATA / f"{name}.json").read_text())
    assert answer(root) == told  # its own snapshot and what is pending
    assert examine.check(root) == []
    with Ingester(root) as ingester:
        ingester.run_once()
        ingester.publish()
    assert answer(root) == told
    (root / "results.duckdb").unlink()
    assert answer(root) == told  # from the segments alone


def test_there_is_one_of_every_version() -> None:
    assert {"store-v1.0", "store-v1.1"} <= set(STORES)
