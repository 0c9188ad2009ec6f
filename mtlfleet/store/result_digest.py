"""One number for a study's results: the same whoever ran them, where, when and after how many kills."""

from __future__ import annotations

import hashlib

from mtlfleet.store.store import Store

# Each query gives one text line per row; the lines are hashed in sorted order. Times, hosts, process ids and attempt
# numbers are left out. A float is written in its shortest form that reads back to the same bits; every NaN is "nan".
_SEPARATOR = "chr(31)"


def _number(column: str) -> str:
    return f"CASE WHEN isnan({column}) THEN 'nan' ELSE {column}::VARCHAR END"


def _line(kind: str, *columns: str, later: tuple[str, ...] = ()) -> str:
    """``later``: columns that came after version 1.1, left out where they are NULL: older stores keep their digest."""
    fields = ", ".join([*(f"coalesce({c}, chr(30))" for c in columns), *later])
    return f"concat_ws({_SEPARATOR}, '{kind}', {fields})"


def _named(column: str, text: str) -> str:
    return f"'{column}=' || {text}"


def _numbers(column: str) -> str:
    return f"list_transform({column}, lambda x: {_number('x')})::VARCHAR"


_QUERIES = (
    (
        _line("trial", "trial_id", "phase", "method", "method_use", "dataset", "architecture", "task", "seed::VARCHAR",
              "config_index::VARCHAR", "state"),
        "trial_summary",
    ),
    (
        _line("metric", "trial_id", "step::VARCHAR", _number("epoch"), "split", "task", "metric",
              _number("value"), "n::VARCHAR", "final::VARCHAR"),
        "metrics",
    ),
    (
        _line("step", "trial_id", "step::VARCHAR", "task", "metric", _number("value")),
        "step_metrics",
    ),
    (
        _line("gradients", "trial_id", "step::VARCHAR", "scope", "tasks::VARCHAR", _numbers("losses"),
              _numbers("norms"), _numbers("cos_upper"), _numbers("weights"), _number("conflict_fraction"),
              _number("update_norm"), "status",
              later=(_named("descents", _numbers("descents")), _named("norm_to_sum", _number("norm_to_sum")),
                     _named("gram_condition", _number("gram_condition")))),
        "task_gradients",
    ),
)  # fmt: skip


def digest(store: Store, study: str, *, use_snapshot: bool = True) -> str:
    """SHA-256, in hex, over the sorted results of the study's current trials.

    Covers trials with their states, every metric row that counts, step metrics and task gradients. The same from the
    snapshot, from the segments alone, or from both.
    """
    found = hashlib.sha256()
    with store.session(use_snapshot=use_snapshot) as session:
        for line, table in _QUERIES:
            query = (
                f"SELECT {line} AS line FROM {table} SEMI JOIN trials USING (study_id, trial_id)"
                " WHERE study_id = $study ORDER BY line"
            )
            for batch in session.stream(query, {"study": study}):
                for text in batch.column(0).to_pylist():
                    found.update(text.encode())
                    found.update(b"\n")
    return found.hexdigest()
