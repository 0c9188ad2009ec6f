"""Registrations: a claim written down before its runs, in a file nobody can take back unseen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtlfleet.store import durable, layout
from mtlfleet.store.attempts import read_json

_LOCK = re.compile(r"(.+)@(\d+)\.json")


def _locks(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for entry in layout.entries(folder):
        lock = _LOCK.fullmatch(entry.name)
        if lock:
            found.setdefault(lock[1], []).append(int(lock[2]))
    return {claim: sorted(numbers) for claim, numbers in found.items()}


def register_claim(root: Path | str, study: str, claim_id: str, payload: Mapping[str, Any]) -> tuple[Path, bool]:
    """Write the next registration of a claim by exclusive create.

    Returns (path, created); created is False when the newest registration holds the same payload. A changed claim
    gets the next number and the earlier registration stays, for everyone to see.
    """
    folder = layout.studies_folder(Path(root), "claims", study)
    layout.checked(claim_id, "claim")
    durable.make_folder(folder)
    body = json.loads(json.dumps(payload))
    while True:
        number = max(_locks(folder).get(claim_id, [0]))
        newest = folder / f"{claim_id}@{number}.json"
        if number and read_json(newest)["payload"] == body:
            return newest, False
        path = folder / f"{claim_id}@{number + 1}.json"
        lock = {
            "claim_id": claim_id,
            "number": number + 1,
            "registered_at": datetime.now(UTC).isoformat(),
            "payload": body,
        }
        if durable.create(path, json.dumps(lock, sort_keys=True, indent=1).encode()):
            path.chmod(0o444)
            return path, True


def claim_locks(root: Path | str, study: str) -> list[dict[str, Any]]:
    """Every registration of a study, by claim and number: ``claim_id, number, registered_at, payload, path``."""
    folder = layout.studies_folder(Path(root), "claims", study)
    return [
        {**read_json(path := folder / f"{claim}@{number}.json"), "path": str(path)}
        for claim, numbers in sorted(_locks(folder).items())
        for number in numbers
    ]
