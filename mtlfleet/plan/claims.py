"""Claims: what a study asserts before it runs, as values that can be hashed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mtlfleet.plan.trial import digest

PROTOCOL_VERSION = 1  # of the judging rules; part of every registration hash

Alternative = Literal["superiority", "non_inferiority", "equivalence", "no_better_than"]
Scope = Literal["these_datasets", "datasets_like_these"]


@dataclass(frozen=True, kw_only=True)
class Estimand:
    """The quantity a claim is about.

    ``delta_m``: percent against in-study STL, flat mean over metrics; ``delta_p``: mean within each task first;
    ``metric``: one task's metric itself. A verdict prints its effect as an improvement: positive = better.
    """

    kind: Literal["delta_m", "delta_p", "metric"] = "delta_m"
    task: str | None = None
    metric: str | None = None

    @property
    def unit(self) -> str:
        return "percentage points" if self.kind != "metric" else f"{self.task}.{self.metric}"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the method is compared with: the best of some methods, chosen per dataset on validation."""

    best_of: tuple[str, ...]
    chosen_on: Literal["validation"] = "validation"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One assertion with everything that decides it; see ``docs/claims.md`` for each field."""

    id: str
    method: str
    baseline: Baseline
    question: str = ""
    estimand: Estimand = Estimand()
    alternative: Alternative = "superiority"
    margin: float = 0.0
    scope: Scope = "these_datasets"
    alpha: float = 0.05
    family: str = "main"
    datasets: tuple[str, ...] = ()  # empty: all of the study
    architectures: tuple[str, ...] = ()
    failures: Literal["worst"] = "worst"
    parity: Literal["required", "waived"] = "required"
    parity_reason: str = ""

    def registration(self, study_sha256: str) -> str:
        """SHA-256 over the claim, the study's science and the protocol's version: as ``claims --lock`` writes it."""
        return digest({"claim": asdict(self), "study": study_sha256, "protocol": PROTOCOL_VERSION})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
