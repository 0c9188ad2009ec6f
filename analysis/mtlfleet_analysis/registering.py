"""Registration: a claim counts as confirmatory if it was locked, as it stands, before its first final run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.pairing import places

Status = Literal["registered", "missing", "changed", "late", "exploratory"]


@dataclass(frozen=True)
class Amendment:
    """An earlier wording of a claim, replaced by a later lock after ``runs`` of the claim's final runs had started."""

    number: int
    registered_at: str
    replaced_at: str
    runs: int


@dataclass(frozen=True)
class Standing:
    """How a claim stands: ``status``, which lock says so, and the sentence for people."""

    status: Status
    number: int | None
    note: str
    amended: tuple[Amendment, ...] = ()

    @property
    def confirmatory(self) -> bool:
        return self.status == "registered"


def standing(evidence: Evidence, claim: Claim) -> Standing:
    """The newest lock must hold the present claim and be older than the first final run of the claim's arms."""
    locks = sorted((r for r in evidence.registrations if r.claim_id == claim.id), key=lambda r: r.number)
    if claim.exploratory:
        number = locks[-1].number if locks else None
        return Standing("exploratory", number, "declared exploratory: observed, not tested")
    if not locks:
        return Standing("missing", None, "never locked: `mtlfleet claims STUDY --lock` before the final runs")
    newest = locks[-1]
    starts = _starts(evidence, claim)

    def runs_before(at: str) -> int:
        return sum(start <= _instant(at) for start in starts)

    amended = tuple(
        Amendment(old.number, old.registered_at, new.registered_at, runs_before(new.registered_at))
        for old, new in pairwise(locks)
        if old.registration != new.registration
    )
    if newest.registration != claim.registration(evidence.sha256):
        return Standing("changed", newest.number, f"differs from its registration @{newest.number}", amended)
    before = runs_before(newest.registered_at)
    if before:
        note = f"locked @{newest.number} after {before} of its final runs had started"
        return Standing("late", newest.number, note, amended)
    return Standing("registered", newest.number, f"locked @{newest.number} before its final runs", amended)


def _starts(evidence: Evidence, claim: Claim) -> list[datetime]:
    """When the final runs of the claim's arms first started."""
    names, where = {claim.method, *claim.baseline.best_of}, set(places(evidence, claim))
    return [
        _instant(run.started_at)
        for run in evidence.phase("final")
        if run.method in names and (run.dataset, run.architecture) in where and run.started_at
    ]


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
