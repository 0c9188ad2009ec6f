"""Steps whose numbers were not finite: counted, and ended once too many follow each other."""

from __future__ import annotations

from dataclasses import dataclass

from mtlfleet.errors import FleetError


class Diverged(FleetError):
    """More steps in a row than ``max_skips`` had non-finite numbers; raised on every rank in the same step."""

    exit_code = 1


@dataclass
class Skips:
    """How many steps were skipped: in a row, and altogether. Every rank counts the same, for every rank skips alike."""

    limit: int | None = None
    in_a_row: int = 0
    total: int = 0

    @classmethod
    def of(cls, limit: int | None) -> Skips:
        """None: any number may follow each other."""
        if limit is not None and limit < 0:
            raise ValueError(f"max_skips is None or at least 0; found {limit}")
        return cls(limit)

    def took(self) -> None:
        """A step was taken."""
        self.in_a_row = 0

    def count(self) -> None:
        """A step was skipped."""
        self.in_a_row += 1
        self.total += 1

    def enforce(self, step: int, reason: str) -> None:
        """Raise Diverged when more steps in a row were skipped than the limit allows."""
        if self.limit is not None and self.in_a_row > self.limit:
            raise Diverged(
                f"{self.in_a_row} steps in a row had non-finite numbers; max_skips allows {self.limit}",
                notes=[
                    f"the last is step {step}: {reason}",
                    "no skipped step changed a gradient or the method's state",
                ],
                help="lower the learning rate or clip; a dynamic loss scale needs some skips to find its size",
            )
