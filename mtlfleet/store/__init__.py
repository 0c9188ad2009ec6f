"""Results: immutable Parquet segments are the truth, DuckDB is the answer. Writers here need no DuckDB."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtlfleet.store.artifacts import keep_artifact
    from mtlfleet.store.attempts import (
        Restorable,
        end_attempt,
        read_claim,
        restorable,
        restorables,
        trial_state,
        trial_states,
    )
    from mtlfleet.store.checkpoints import new_checkpoint, open_checkpoint, prune_checkpoints
    from mtlfleet.store.documents import read_document, write_document
    from mtlfleet.store.ingest import Ingester
    from mtlfleet.store.layout import checkpoint_key
    from mtlfleet.store.logs import keep_log, new_log
    from mtlfleet.store.outcome import final_values, newest_attempt
    from mtlfleet.store.registration import claim_locks, register_claim
    from mtlfleet.store.store import Store, open_store
    from mtlfleet.store.writer import AttemptWriter

_HOME = {
    "AttemptWriter": "writer",
    "Ingester": "ingest",
    "Restorable": "attempts",
    "Store": "store",
    "checkpoint_key": "layout",
    "claim_locks": "registration",
    "end_attempt": "attempts",
    "final_values": "outcome",
    "keep_artifact": "artifacts",
    "keep_log": "logs",
    "new_checkpoint": "checkpoints",
    "new_log": "logs",
    "newest_attempt": "outcome",
    "open_checkpoint": "checkpoints",
    "open_store": "store",
    "prune_checkpoints": "checkpoints",
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
    "checkpoint_key",
    "claim_locks",
    "digest",
    "end_attempt",
    "final_values",
    "keep_artifact",
    "keep_log",
    "new_checkpoint",
    "new_log",
    "newest_attempt",
    "open_checkpoint",
    "open_store",
    "prune_checkpoints",
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
