"""The only definition of a column: name, type, unit and meaning, for Parquet segments, documents and DuckDB alike.

Names are snake_case; ``_id`` text keys, ``_at`` UTC timestamps, ``_s`` seconds, ``_bytes`` sizes; fractions are in
[0, 1]. NaN and infinities are stored as they are; NULL means "not measured". Inside one schema version changes only
add columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from mtlfleet.store.columns import SCHEMA_VERSION, Table
from mtlfleet.store.columns import table as _table
from mtlfleet.store.document_tables import DOCUMENT_TABLES, STUDY, TRIAL

__all__ = [
    "ALL_TABLES",
    "ATTEMPTS",
    "DOCUMENTS",
    "DOCUMENT_TABLES",
    "ENVIRONMENTS",
    "LEDGER",
    "META",
    "MIRRORED_LOCKS",
    "SCHEMA_VERSION",
    "SEALED",
    "SEGMENT_TABLES",
    "Table",
]

_ATTEMPT = ("attempt", "int32", "which run of the trial wrote this, from 1")
_STEP = ("step", "int", "optimizer steps done", "step")
_KEY = (STUDY, TRIAL, _ATTEMPT, _STEP)

SEGMENT_TABLES: Mapping[str, Table] = {
    t.name: t
    for t in (
        _table(
            "metrics",
            "evaluation and epoch rows of the attempts that count",
            *_KEY,
            ("epoch", "float", "passes over the training split done", "epoch"),
            ("split", "text", "train, val or test"),
            ("task", "text", "task, or * for all tasks together"),
            ("metric", "text", "metric; unit and direction in metric_defs"),
            ("value", "float", "as measured; NaN and infinities are kept", "metric_defs.unit"),
            ("n", "int", "samples behind the value"),
            ("final", "bool", "belongs to the checkpoint that validation chose"),
            ("logged_at", "time", "wall clock of the writer, UTC"),
            base="metrics_all",
        ),
        _table(
            "step_metrics",
            "rows of single training steps",
            *_KEY,
            ("task", "text", "task, or * for all tasks together"),
            ("metric", "text", "what was measured, such as loss"),
            ("value", "float32", "as measured; NaN and infinities are kept"),
            base="step_metrics_all",
            bulk=True,
        ),
        _table(
            "task_gradients",
            "geometry of the task gradients at single steps",
            *_KEY,
            ("scope", "text", "which parameters: shared, or a layer"),
            ("tasks", "texts", "task names, in the order of the lists"),
            ("losses", "floats", "loss per task"),
            ("norms", "floats", "L2 norm of each task's gradient"),
            ("cos_upper", "floats", "cosine of each pair i<j, row-major; see view task_gradient_pairs"),
            ("weights", "floats", "weights the method chose, empty when its update is not a weighting"),
            ("conflict_fraction", "float32", "share of pairs with a negative cosine", "fraction"),
            ("update_norm", "float32", "L2 norm of the shared update direction"),
            ("status", "text", "what the method's solver said"),
            (
                "descents",
                "floats",
                "each task's gradient times the update; below zero, the step hurts the task",
            ),
            ("min_descent", "float32", "the smallest of the descents"),
            ("norm_to_sum", "float32", "update_norm over the norm of the plain sum of the task gradients"),
            ("gram_condition", "float32", "largest over smallest eigenvalue of the Gram of the task gradients"),
            base="task_gradients_all",
            bulk=True,
        ),
        _table(
            "checkpoints",
            "checkpoints that an attempt may restore from",
            *_KEY,
            ("uri", "text", "path below the store's root"),
            ("size_bytes", "int", "size", "byte"),
            ("sha256", "text", "hash of the content"),
            ("created_at", "time", "when it was complete, UTC"),
            base="checkpoints_all",
        ),
        _table(
            "artifacts",
            "files that trials left for later use; see storage.weights",
            *_KEY,
            ("kind", "text", "weights: the model that validation chose, as safetensors"),
            ("uri", "text", "path below the store's root"),
            ("size_bytes", "int", "size", "byte"),
            ("sha256", "text", "hash of the content"),
            ("created_at", "time", "when it was complete, UTC"),
            base="artifacts_all",
        ),
        _table(
            "events",
            "what happened, of every attempt",
            *_KEY,
            ("logged_at", "time", "wall clock of the writer, UTC"),
            ("level", "text", "info, warning or error"),
            ("kind", "text", "a short name to group by"),
            ("message", "text", "for people; untrusted text"),
        ),
    )
}

ATTEMPTS = _table(
    "attempts",
    "every run of every trial",
    STUDY,
    TRIAL,
    _ATTEMPT,
    ("restored_step", "int", "step of the checkpoint it started from, 0 for none", "step"),
    ("restored_checkpoint", "text", "that checkpoint"),
    ("ray_trial_id", "text", "id at the scheduler"),
    ("node", "text", "host of rank 0"),
    ("world_size", "int32", "data-parallel ranks"),
    ("started_at", "time", "when it was claimed, UTC"),
    ("ended_at", "time", "when it ended, UTC; NULL while it runs"),
    ("state", "text", "running, done, diverged, failed, oom, lost or interrupted"),
    ("exit_reason", "text", "why it ended"),
    ("last_step", "int", "last step done", "step"),
    ("train_s", "float", "seconds of training", "s"),
    ("device_s", "float", "seconds of training times devices", "s"),
    ("env_sha256", "text", "what it ran in, see environments"),
)

ENVIRONMENTS = _table(
    "environments",
    "what attempts ran in: rank 0's software, hardware and command, each combination once",
    ("env_sha256", "text", "hash of the rest"),
    ("python", "text", "its version"),
    ("torch", "text", "its version, with the build"),
    ("cuda", "text", "CUDA that torch was built for; NULL for a CPU build"),
    ("driver", "text", "version of the NVIDIA driver; NULL where there is none"),
    ("gpu", "text", "name of rank 0's GPU; NULL on a CPU"),
    ("cpu", "text", "name of rank 0's processor"),
    ("host", "text", "name of rank 0's machine"),
    ("platform", "text", "operating system and processor architecture"),
    ("packages", "json", "every installed distribution and its version"),
    ("git_commit", "text", "commit of the repository that the study file lies in; NULL outside one"),
    ("git_dirty", "bool", "whether tracked files there differed from that commit"),
    ("command", "text", "the command that launched the trial"),
)

MIRRORED_LOCKS = _table(
    "claim_locks",
    "claims registered before their runs; mirrors the files under claims/",
    STUDY,
    ("claim_id", "text", "the claim's id in the study file"),
    ("number", "int32", "which registration of the claim, from 1"),
    ("registration", "text", "SHA-256 of claim, study and protocol"),
    ("registered_at", "time", "when, UTC"),
    ("payload", "json", "the registration as written"),
)

LEDGER = _table(
    "segments",
    "the ledger: every segment whose rows are in this file",
    ("segment", "text", "path below the store's root"),
    ("table_name", "text", "table its rows belong to"),
    STUDY,
    TRIAL,
    _ATTEMPT,
    ("part", "int", "number within the attempt and table"),
    ("rows", "int", "rows"),
    ("bytes", "int", "size", "byte"),
    ("min_step", "int", "smallest step in it", "step"),
    ("max_step", "int", "largest step in it", "step"),
    ("schema_version", "int32", "schema version it was written in"),
    ("sha256", "text", "hash of its bytes but for the stamp inside, or of all of them where it has none"),
    ("ingested_at", "time", "when its rows came in, UTC"),
)

SEALED = _table(
    "sealed",
    "Parquet files beside this file that hold bulk rows of ended trials; see storage.publish.max_bytes",
    STUDY,
    TRIAL,
    ("table_name", "text", "table its rows belong to"),
    ("path", "text", "path below the store's root"),
    ("rows", "int", "rows"),
    ("bytes", "int", "size", "byte"),
    ("sealed_at", "time", "when it was written, UTC"),
)

META = _table("meta", "facts about this file", ("key", "text", "name"), ("value", "text", "value"))

DOCUMENTS = _table(
    "documents",
    "which document file each table's rows of a study come from",
    STUDY,
    ("table_name", "text", "table"),
    ("document", "text", "path below the store's root"),
)

ALL_TABLES: tuple[Table, ...] = (
    *DOCUMENT_TABLES.values(),
    MIRRORED_LOCKS,
    ATTEMPTS,
    ENVIRONMENTS,
    *SEGMENT_TABLES.values(),
    LEDGER,
    SEALED,
    DOCUMENTS,
    META,
)
