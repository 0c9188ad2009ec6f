"""Rows from the small files of a store: claims of attempts with how they ended, registrations, documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from mtlfleet.errors import StoreDamaged
from mtlfleet.store.attempts import read_claims
from mtlfleet.store.database import first_line, insert, newer, quoted
from mtlfleet.store.layout import Claimed
from mtlfleet.store.registration import claim_locks
from mtlfleet.store.schema import ATTEMPTS, ENVIRONMENTS, MIRRORED_LOCKS, SCHEMA_VERSION

if TYPE_CHECKING:  # Arrow is imported where rows are made: a query over a current snapshot makes none
    import pyarrow as pa


def load_attempts(con: duckdb.DuckDBPyConnection, root: Path, claims: Sequence[Claimed]) -> None:
    """Put the rows of these claims, read from their files, in place of those that ``attempts`` has of them, and what
    they ran in into ``environments``. Raises EnvironmentProblem for a claim of a later schema version."""
    attempts, environments = attempt_rows(root, claims)
    con.register("claimed", attempts)
    con.execute(
        "DELETE FROM attempts a USING claimed c"
        " WHERE (a.study_id, a.trial_id, a.attempt) = (c.study_id, c.trial_id, c.attempt)"
    )
    con.unregister("claimed")
    insert(con, ATTEMPTS.base, attempts)
    con.register("met", environments)
    con.execute("INSERT INTO environments BY NAME SELECT * FROM met ANTI JOIN environments USING (env_sha256)")
    con.unregister("met")


def attempt_rows(root: Path, claims: Sequence[Claimed]) -> tuple[pa.Table, pa.Table]:
    """The ``attempts`` and ``environments`` rows of these claims."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    environments: dict[str, dict[str, Any]] = {}
    found = read_claims(root, [(c.study, c.trial, c.attempt) for c in claims])
    for claim, told in zip(claims, found, strict=True):
        if int(told.get("schema_version", 1)) > SCHEMA_VERSION:
            raise newer(f"attempt {claim.attempt} of trial {claim.trial}", int(told["schema_version"]))
        row = {name: told.get(name) for name in ATTEMPTS.names}
        for name in ("started_at", "ended_at"):
            row[name] = datetime.fromisoformat(str(row[name])) if row[name] else None
        if environment := told.get("environment"):  # a gang that never got to its trial leaves none
            row["env_sha256"] = sha256 = _sha256(environment)
            environments[sha256] = _environment(environment)
        rows.append({**row, "study_id": claim.study, "trial_id": claim.trial, "attempt": claim.attempt})
    met = [{**environment, "env_sha256": sha256} for sha256, environment in sorted(environments.items())]
    return (
        pa.Table.from_pylist(rows, schema=ATTEMPTS.arrow),
        pa.Table.from_pylist(met, schema=ENVIRONMENTS.arrow),
    )


def _sha256(environment: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()


def _environment(told: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: told.get(name) for name in ENVIRONMENTS.names}
    return {**row, "packages": json.dumps(told.get("packages") or {}, sort_keys=True)}


def lock_rows(root: Path, studies: Iterable[str]) -> pa.Table:
    """The ``claim_locks`` rows: the registrations on disk."""
    import pyarrow as pa

    def row(study: str, lock: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "study_id": study,
            "claim_id": lock["claim_id"],
            "number": lock["number"],
            "registration": lock["payload"].get("registration"),
            "registered_at": datetime.fromisoformat(lock["registered_at"]),
            "payload": json.dumps(lock["payload"], sort_keys=True),
        }

    rows = []
    for study in studies:
        for lock in claim_locks(root, study):
            try:
                rows.append(row(study, lock))
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise StoreDamaged(
                    f"{lock['path']} is not a registration: {type(error).__name__} {first_line(error)}",
                    help="restore the file from a backup: verdicts rest on it",
                ) from error
    return pa.Table.from_pylist(rows, schema=MIRRORED_LOCKS.arrow)


def document_rows(path: Path) -> str:
    """A document's file as a SQL table."""
    return f"read_parquet({quoted(str(path))}, hive_partitioning = false)"
