"""What attempts ran in, told once for all of them; and the name that a store keeps."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtlfleet.errors import StoreDamaged
from mtlfleet.store import AttemptWriter, Ingester, Store, open_store

ASKED = """SELECT count(*) AS attempts, any_value(python) AS python, any_value(packages->>'torch') AS torch,
any_value(git_dirty) AS dirty FROM attempts LEFT JOIN environments USING (env_sha256)
GROUP BY env_sha256 ORDER BY ALL"""
KNOWN = "SELECT count(*) AS n, count(DISTINCT env_sha256) AS different FROM environments"


def attempt(root: Path, trial: str, environment: dict[str, Any] | None) -> None:
    facts = {"environment": environment} if environment else {}
    AttemptWriter.claim(root, "s", trial, restored_step=0, restored_checkpoint=None, world_size=1, facts=facts).close(
        "done", last_step=1
    )


def test_attempts_in_one_environment_share_its_row(tmp_path: Path) -> None:
    new = {"python": "3.12.1", "packages": {"torch": "2.13.0"}, "git_dirty": True}
    old = {"python": "3.11.7", "packages": {"torch": "2.12.0"}, "git_dirty": False, "of a later version": 1}
    for trial, environment in (("a", new), ("b", old), ("c", dict(reversed(new.items())))):
        attempt(tmp_path, trial, environment)
    attempt(tmp_path, "d", None)  # its ranks never met
    expected = [
        {"attempts": 1, "python": "3.11.7", "torch": "2.12.0", "dirty": False},
        {"attempts": 1, "python": None, "torch": None, "dirty": None},
        {"attempts": 2, "python": "3.12.1", "torch": "2.13.0", "dirty": True},
    ]

    def told(**how: Any) -> list[dict[str, Any]]:
        with Store(tmp_path).session(**how) as session:
            assert session.sql(KNOWN).to_pylist() == [{"n": 2, "different": 2}]
            found: list[dict[str, Any]] = session.sql(ASKED).to_pylist()
            return sorted(found, key=lambda row: (row["attempts"], str(row["python"])))

    assert told() == expected  # nothing is published
    with Ingester(tmp_path) as ingester:
        ingester.run_once()
        ingester.publish()
        assert told() == expected
        attempt(tmp_path, "e", old)  # known to the published file
        expected[0]["attempts"] = 2
        expected.sort(key=lambda row: (row["attempts"], str(row["python"])))
        assert told() == told(use_snapshot=False) == expected
        ingester.run_once()
        ingester.publish()
    assert told() == expected


def name_of(root: Path) -> str:
    with Ingester(root) as ingester:
        ingester.run_once()
        ingester.publish()
    (row,) = open_store(root).sql("SELECT value FROM meta WHERE key = 'store_uuid'").to_pylist()
    return str(uuid.UUID(row["value"]))


def test_a_store_keeps_its_name_whatever_becomes_of_its_database(make_study: Callable[..., Path]) -> None:
    one, other = make_study("one"), make_study("other")
    name = name_of(one)
    assert name != name_of(other)
    for file in [*one.glob("results.duckdb"), *one.glob(".work*")]:
        file.unlink()
    assert name_of(one) == name


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_damaged_name_is_told_and_not_replaced(make_study: Callable[..., Path], content: str) -> None:
    root = make_study()
    (root / "store.json").write_text(content)
    with pytest.raises(StoreDamaged, match=r"store\.json"):
        Ingester(root)
    assert (root / "store.json").read_text() == content
