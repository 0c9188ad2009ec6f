"""How old an answer is."""

from __future__ import annotations

from typing import NamedTuple


class Freshness(NamedTuple):
    """What an answer is made of."""

    snapshot_age_s: float | None
    pending_segments: int

    def __str__(self) -> str:
        snapshot = "no snapshot" if self.snapshot_age_s is None else f"snapshot {self.snapshot_age_s:.0f} s old"
        return f"{snapshot} + {self.pending_segments} pending segment{'s' if self.pending_segments != 1 else ''}"
