"""Registrations: a claim written down before its runs, in a file nobody can take back unseen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.attempts import parsed
from mtlfleet.store.place import Place, at

_LOCK = re.compile(r"(.+)@(\d+)\.json")


def _locks(place: Place, study: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for lock in filter(None, map(_LOCK.fullmatch, place.names(layout.study_key("claims", study)))):
        found.setdefault(lock[1], []).append(int(lock[2]))
    return {claim: sorted(numbers) for claim, numbers in found.items()}


def _key(study: str, claim: str, number: int) -> str:
    return f"{layout.study_key('claims', study)}/{layout.checked(claim, 'claim')}@{number}.json"


def register_claim(root: Root, study: str, claim_id: str, payload: Mapping[str, Any]) -> tuple[str, bool]:
    """Write the next registration of a claim by exclusive create.

    Returns (key, created); created is False when the newest registration holds the same payload. A changed claim
    gets the next number and the earlier registration stays, for everyone to see.
    """
    place = at(root)
    body = json.loads(json.dumps(payload))
    while True:
        number = max(_locks(place, study).get(claim_id, [0]))
        if number and parsed(place, newest := _key(study, claim_id, number))["payload"] == body:
            return newest, False
        key = _key(study, claim_id, number + 1)
        lock = {
            "claim_id": claim_id,
            "number": number + 1,
            "registered_at": datetime.now(UTC).isoformat(),
            "payload": body,
        }
        if place.put_new(key, json.dumps(lock, sort_keys=True, indent=1).encode()):
            return key, True


def claim_locks(root: Root, study: str) -> list[dict[str, Any]]:
    """Every registration of a study, by claim and number: ``claim_id, number, registered_at, payload, path``."""
    place = at(root)
    keys = [_key(study, claim, n) for claim, numbers in sorted(_locks(place, study).items()) for n in numbers]
    found = zip(keys, place.read_all(keys), strict=True)
    return [{**parsed(place, key, content), "path": f"{place.root}/{key}"} for key, content in found]
