"""The datasets that a study can use, with the facts of their default parameters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mtlfleet.cli.catalogue import group
from mtlfleet.registry import REQUIRED, Entry, build


def _facts(entry: Entry) -> dict[str, Any]:
    if any(p.default is REQUIRED for p in entry.parameters):
        return {}
    facts = build("dataset", entry.name).facts()
    return {
        "tasks": [asdict(task) for task in facts.tasks],
        "train_size": facts.train_size,
        "input_shape": list(facts.input_shape),
        "fingerprint": facts.fingerprint,
    }


command = group("dataset", _facts)
