"""Stores written by earlier versions open in this one and say what they said then."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mtlfleet.store import Ingester, Store, digest
from mtlfleet.store.doctor import examine

DATA = Path(__file__).parents[2] / "data"
STORES = sorted(p.name.removesuffix(".tar.gz") for p in DATA.glob("store-v*.tar.gz"))


def answer(root: Path, told: dict[str, Any]) -> dict[str, object]:
    """What the store says now; columns that views got since then are left out."""
    columns = ", ".join(told["leaderboard"][0])
    board = Store(root).rows(f"SELECT {columns} FROM leaderboard ORDER BY ALL")
    return {"digest": digest(Store(root), "s"), "leaderboard": [{k: str(v) for k, v in row.items()} for row in board]}


@pytest.mark.parametrize("name", STORES)
def test_a_store_of_an_earlier_version_says_what_it_said(tmp_path: Path, name: str) -> None:
    with tarfile.open(DATA / f"{name}.tar.gz") as tar:
        # An attribute, because extractall takes no filter before Python 3.11.4 (Debian 12 has 3.11.2).
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(tmp_path)
    root = tmp_path / "store"
    told = json.loads((DATA / f"{name}.json").read_text())
    assert answer(root, told) == told  # its own snapshot and what is pending
    assert examine(root).problems == ()
    with Ingester(root) as ingester:
        ingester.run_once()
        ingester.publish()
    assert answer(root, told) == told
    (root / "results.duckdb").unlink()
    assert answer(root, told) == told  # from the segments alone


def test_there_is_one_of_every_version() -> None:
    assert {"store-v1.0", "store-v1.1", "store-v1.2", "store-v1.3"} <= set(STORES)
