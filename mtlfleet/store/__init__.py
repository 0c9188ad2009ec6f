"""Results: immutable Parquet segments are the truth, DuckDB is the answer. Writers here need no DuckDB."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtlfleet.store.attempts import (
        Restorable,
        end_attempt,
        read_claim,
        restorable,
        restorables,
        trial_state,
        trial_states,
    )
    from mtlfleet.store.documents import read_document, write_document
    from mtlfleet.store.ingest import Ingester
    from mtlfleet.store.layout import checkpoint_path, log_path
    from mtlfleet.store.outcome import final_values, newest_attempt
    from mtlfleet.store.registration import claim_locks, register_claim
    from mtlfleet.store.store import Store, open_store
    from mtlfleet.store.writer import AttemptWriter

_HOME = {
    "AttemptWriter": "writer",
    "Ingester": "ingest",
    "Restorable": "attempts",
    "Store": "store",
    "checkpoint_path": "layout",
    "claim_locks": "registration",
    "end_attempt": "attempts",
    "final_values": "outcome",
    "log_path": "layout",
    "newest_attempt": "outcome",
    "open_store": "store",
    "read_claim": "attempts",
    "read_document": "documents",
    "register_claim": "registration",
    "restorable": "attempts",
    "restorables": "attempts",
    "trial_state": "attempts",
    "trial_states": "attempts",
    "write_document": "documents",
}
__all__ = [
    "AttemptWriter",
    "Ingester",
    "Restorable",
    "Store",
    "checkpoint_path",
    "claim_locks",
    "digest",
    "end_attempt",
    "final_values",
    "log_path",
    "newest_attempt",
    "open_store",
    "read_claim",
    "read_document",
    "register_claim",
    "restorable",
    "restorables",
    "trial_state",
    "trial_states",
    "write_document",
]


def digest(store: Store, study: str) -> str:
    """SHA-256 over a study's sorted results, without times, hosts, process ids and attempt numbers."""
    return import_module("mtlfleet.store.result_digest").digest(store, study)  # type: ignore[no-any-return]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"mtlfleet.store.{_HOME[name]}"), name)
    raise AttributeError(f"module 'mtlfleet.store' has no attribute {name!r}")
