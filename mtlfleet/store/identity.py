"""A store's name for itself: the same for every database that is ever made from its files, and for a copy of them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

from mtlfleet.errors import StoreDamaged
from mtlfleet.plan.place import Root
from mtlfleet.store import layout
from mtlfleet.store.attempts import parsed
from mtlfleet.store.place import at


def identity(root: Root) -> str:
    """The store's UUID; given to it the first time. Raises StoreDamaged when the file that holds it is not ours."""
    place = at(root)
    if layout.IDENTITY not in place.names(""):
        new = {"store_uuid": str(uuid.uuid4()), "created_at": datetime.now(UTC).isoformat()}
        place.put_new(layout.IDENTITY, json.dumps(new, sort_keys=True).encode())  # another may be first: read below
    found = parsed(place, layout.IDENTITY).get("store_uuid")
    if found is None:
        raise StoreDamaged(f"{root}/{layout.IDENTITY} does not name the store", help="restore the file, or delete it")
    return str(found)
