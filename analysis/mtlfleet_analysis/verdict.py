"""A verdict: what the statistics say about one claim, with everything needed to quote or to doubt it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtlfleet.plan.claims import Claim
from mtlfleet.plan.trial import canonical
from mtlfleet_analysis.decision import Answer


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One judged claim. ``effect`` is an improvement over the baseline (positive = better) in ``unit``.

    ``ci_low, ci_high``: two-sided 95 % interval. ``p_value``: of the null the claim would reject, one-sided;
    ``p_adjusted``: Holm within the family (Benjamini-Hochberg for ``observed``). ``power``: at the margin, with these
    runs. ``guards``: those that fired. ``sha256``: of claim, protocol and pairs.
    """

    claim: Claim
    verdict: Answer
    label: str = ""
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    n_pairs: int = 0
    n_datasets: int = 0
    power: float | None = None
    seeds_needed: int | None = None
    guards: tuple[str, ...] = ()
    fragile: bool = False
    sentence: str = ""
    sha256: str = ""
    detail: Mapping[str, Any]

    @property
    def claim_id(self) -> str:
        return self.claim.id

    @property
    def unit(self) -> str:
        return self.claim.estimand.unit

    @property
    def title(self) -> str:
        """``supported``, or ``supported (negligible)``; what qualifies it follows in brackets."""
        tags = "".join(f" [{tag}]" for tag in self.detail.get("tags", ()))
        return (f"{self.verdict} ({self.label})" if self.label else self.verdict) + tags

    def to_row(self) -> dict[str, Any]:
        """A row of the table ``verdicts``."""
        row = {name: plain(getattr(self, name)) for name in _COLUMNS}
        return row | {"detail": plain(dict(self.detail))}

    def to_dict(self) -> dict[str, Any]:
        """The same as data for ``--json``."""
        return self.to_row()

    def to_json(self) -> str:
        """Canonical JSON: the same evidence gives the same bytes."""
        return canonical(self.to_row())


_COLUMNS = (
    "claim_id",
    "verdict",
    "label",
    "effect",
    "ci_low",
    "ci_high",
    "unit",
    "p_value",
    "p_adjusted",
    "n_pairs",
    "n_datasets",
    "power",
    "seeds_needed",
    "guards",
    "fragile",
    "sentence",
    "sha256",
)


def plain(value: Any) -> Any:
    """JSON values only; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def from_row(row: Mapping[str, Any], claim: Claim) -> Verdict:
    """A verdict read back from the table ``verdicts``."""
    detail = row["detail"]
    names = [n for n in _COLUMNS if n not in ("claim_id", "unit", "guards")]
    return Verdict(
        claim=claim,
        guards=tuple(row["guards"]),
        detail=json.loads(detail) if isinstance(detail, str) else detail,
        **{n: row[n] for n in names},
    )
