"""Claims: what a study asserts before it runs, as values that can be hashed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mtlfleet.plan.trial import digest

PROTOCOL_VERSION = 2  # of the judging rules; part of every registration hash

Alternative = Literal["superiority", "non_inferiority", "equivalence", "no_better_than"]
Scope = Literal["these_datasets", "datasets_like_these"]
Kind = Literal[
    "delta_m", "delta_p", "delta_task", "metric", "every_task", "front_pref", "compute_matched", "time_to_target"
]  # fmt: skip
ON_THE_WAY = ("compute_matched", "time_to_target")  # read along the validation curve, against device seconds
Preference = tuple[tuple[str, float], ...]  # (task, weight); empty: every task the same


@dataclass(frozen=True, kw_only=True)
class Estimand:
    """The quantity a claim is about.

    ``delta_m``: percent against in-study STL, flat mean over metrics; ``delta_p``: mean within each task first;
    ``delta_task``: percent change of one metric; ``metric``: one task's metric itself; ``every_task``: each task's own
    percent change, all at once (safety); ``front_pref``: percent changes weighted by each of the declared
    ``preferences``, against every point of a sweep or the one that validation chose. ``eps``: by how much a sweep must
    be beaten, the bulge of the sweep itself if None. ``time_to_target``: device seconds until one task's metric reaches
    ``target`` on validation; ``compute_matched``: that metric on validation once ``device_s`` device seconds are spent,
    the arm's tuning included. A verdict prints its effect as an improvement: positive = better.
    """

    kind: Kind = "delta_m"
    task: str | None = None
    metric: str | None = None
    preferences: tuple[Preference, ...] = ()
    eps: float | None = None
    target: float | None = None
    device_s: float | None = None

    @property
    def unit(self) -> str:
        if self.relative:
            return "percentage points"
        return "device seconds" if self.kind == "time_to_target" else f"{self.task}.{self.metric}"

    @property
    def relative(self) -> bool:
        """Whether it is a percent change, which needs single-task runs in the study."""
        return self.kind != "metric" and self.kind not in ON_THE_WAY


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the method is compared with: the best of some methods, chosen per dataset on validation.

    ``sweep``: the methods are the points of one sweep of static weights; a front claim must beat every one of them.
    """

    best_of: tuple[str, ...]
    chosen_on: Literal["validation"] = "validation"
    sweep: bool = False


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When evidence may be looked at: once (``fixed``), at ``looks`` seeds that share alpha, or ``anytime``."""

    kind: Literal["fixed", "group_sequential", "anytime"] = "fixed"
    looks: tuple[int, ...] = ()  # seeds per dataset, increasing
    alpha: tuple[float, ...] = ()  # the part of the claim's alpha that each look spends


@dataclass(frozen=True, kw_only=True)
class Splits:
    """How datasets relate. ``resampled``: they are overlapping resamples of one, each testing on ``test_fraction``."""

    kind: Literal["fixed", "disjoint", "resampled"] = "fixed"
    test_fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One assertion with everything that decides it; see ``docs/claims.md`` for each field."""

    id: str
    method: str
    baseline: Baseline
    use: str = ""  # the claim of the literature it was taken from
    question: str = ""
    estimand: Estimand = Estimand()
    alternative: Alternative = "superiority"
    margin: float = 0.0
    scope: Scope = "these_datasets"
    alpha: float = 0.05
    family: str = "main"
    correction: Literal["holm", "max_t"] = "holm"
    stopping: Stopping = Stopping()
    splits: Splits = Splits()
    datasets: tuple[str, ...] = ()  # empty: all of the study
    architectures: tuple[str, ...] = ()
    failures: Literal["worst", "exclude"] = "worst"
    failures_reason: str = ""  # why leaving failed runs out is right; printed
    parity: Literal["required", "waived"] = "required"
    parity_reason: str = ""
    compute_tolerance: float | None = None
    exploratory: bool = False
    dataset_families: tuple[tuple[str, str], ...] = ()  # (dataset, family) where they differ; for other datasets alone

    def family_of(self, dataset: str) -> str:
        """What a claim about other datasets counts: variants of one source are one observation."""
        return dict(self.dataset_families).get(dataset, dataset)

    def registration(self, study_sha256: str) -> str:
        """SHA-256 over the claim, the study's science and the protocol's version: as ``claims --lock`` writes it."""
        return digest({"claim": self.to_dict(), "study": study_sha256, "protocol": PROTOCOL_VERSION})

    def to_dict(self) -> dict[str, Any]:
        """JSON values. A field of ``_LATER`` is there only where it says something: what was locked before it existed
        keeps its hash."""
        found = {name: value for name, value in asdict(self).items() if value or name not in _LATER}
        kept = {name: v for name, v in found["estimand"].items() if v is not None or name not in _LATER}
        return {**found, "estimand": kept}


_LATER = ("dataset_families", "failures_reason", "target", "device_s")


def claim_from(raw: dict[str, Any]) -> Claim:
    """Inverse of ``Claim.to_dict`` after a trip through JSON; also of claims that older versions wrote."""
    given = dict(raw)
    estimand = dict(given["estimand"])
    estimand["preferences"] = tuple(tuple((t, w) for t, w in p) for p in estimand.get("preferences", ()))
    given["estimand"] = Estimand(**estimand)
    given["baseline"] = Baseline(**{**given["baseline"], "best_of": tuple(given["baseline"]["best_of"])})
    stopping: dict[str, Any] = given.get("stopping", {})
    looks, alpha = (tuple(stopping.get(name, ())) for name in ("looks", "alpha"))
    given["stopping"] = Stopping(kind=stopping.get("kind", "fixed"), looks=looks, alpha=alpha)
    given["splits"] = Splits(**given.get("splits", {}))
    for name in ("datasets", "architectures"):
        given[name] = tuple(given[name])
    given["dataset_families"] = tuple((d, f) for d, f in given.get("dataset_families", ()))
    return Claim(**given)
