"""The shape of a claim in a study file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt, MaxLen, MinLen
from pydantic import AllowInfNan, ConfigDict, Discriminator, Field, Tag, model_validator

from mtlfleet.plan.scalars import Absent, Id, Shape, Text


class BaselineEntry(Shape):
    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["best_of"]}, {"required": ["method"]}, {"required": ["sweep"]}]}
    )

    best_of: Annotated[list[str], MinLen(1)] | Absent = Field(
        default=None, description="the best of these, chosen per dataset on validation"
    )
    method: str | Absent = None
    sweep: Annotated[list[str], MinLen(2)] | Absent = Field(
        default=None, description="methods that are the points of one sweep of static weights; for kind: front_pref"
    )
    chosen_on: Literal["validation"] = "validation"

    @model_validator(mode="after")
    def _one(self) -> BaselineEntry:
        if sum(part is not None for part in (self.best_of, self.method, self.sweep)) != 1:
            raise ValueError("exactly one of best_of, method and sweep")
        return self

    @property
    def members(self) -> list[str]:
        return self.best_of or self.sweep or [str(self.method)]


Weights = Annotated[dict[str, Annotated[float, Ge(0)]], MinLen(1)]


def _preference_kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "map" if isinstance(value, dict) else "word"


class EstimandEntry(Shape):
    """What is measured. The kinds after time_to_target are descriptions and refused as claims, each with its reason."""

    kind: Literal[
        "delta_m", "delta_p", "delta_task", "metric", "every_task", "front_pref", "compute_matched", "time_to_target",
        "mean_rank", "win_rate", "probability_of_improvement", "iqm", "profile", "hypervolume", "hypervolume_ratio",
        "eps_indicator", "evp",
    ] = "delta_m"  # fmt: skip
    metric: str | Absent = Field(default=None, description="task.metric, for the kinds about one metric")
    w: (
        Annotated[
            Annotated[Literal["equal"], Tag("word")]
            | Annotated[Weights, Tag("map")]
            | Annotated[Annotated[list[Weights], MinLen(1), MaxLen(64)], Tag("list")],
            Discriminator(_preference_kind),
        ]
        | Absent
    ) = Field(default=None, description="declared preference for front_pref: equal, {task: weight}, or several of them")
    eps: Annotated[float, Gt(0)] | Absent = Field(
        default=None,
        description="by how much a sweep must be beaten; default: how far it bulges between its points",
    )
    target: Annotated[float, AllowInfNan(False)] | Absent = Field(
        default=None, description="for time_to_target: the validation reading to reach, set from a baseline beforehand"
    )
    device_s: Annotated[float, Gt(0), AllowInfNan(False)] | Absent = Field(
        default=None, description="for compute_matched: device seconds each arm may spend, its tuning included"
    )


class StoppingEntry(Shape):
    """When a claim may be decided."""

    kind: Literal["fixed", "group_sequential", "anytime"] = "fixed"
    looks: list[Annotated[int, Ge(1)]] = Field(default=[], description="seeds per dataset at each look, increasing")
    alpha: list[Annotated[float, Gt(0), Lt(0.5)]] = Field(
        default=[], description="what each look spends; together at most the claim's alpha"
    )


class SplitsEntry(Shape):
    """How the claim's datasets relate to each other."""

    kind: Literal["fixed", "disjoint", "resampled"] = "fixed"
    test_fraction: Annotated[float, Gt(0), Lt(1)] | Absent = Field(
        default=None, description="share of the samples each resampled split tests on"
    )


def _taken_from_the_literature(schema: dict[str, Any]) -> None:
    """A claim that says ``use`` needs nothing else; the file it names brings the rest."""
    own = schema.pop("required")
    schema["anyOf"] = [{"required": ["use"]}, {"required": own}]


class ClaimEntry(Shape):
    """What the study asserts before it runs."""

    model_config = ConfigDict(json_schema_extra=_taken_from_the_literature)

    use: str = Field(default="", description="a claim of the literature, `paper/claim`; other keys change it")
    id: Id
    question: Text = ""
    method: str
    baseline: BaselineEntry
    estimand: EstimandEntry = EstimandEntry()
    alternative: Literal["superiority", "non_inferiority", "equivalence", "no_better_than"] = "superiority"
    margin: Annotated[float, Gt(0)] = Field(
        description="smallest effect of interest, in the estimand's unit; mandatory"
    )
    scope: Literal["these_datasets", "datasets_like_these"] = Field(
        description="what the claim speaks of: the datasets that are run, or others of their kind; mandatory"
    )
    alpha: Annotated[float, Gt(0), Lt(0.5)] = 0.05
    family: Id = "main"
    correction: Literal["holm", "max_t"] = "holm"
    stopping: StoppingEntry = StoppingEntry()
    splits: SplitsEntry = SplitsEntry()
    datasets: list[str] = []
    architectures: list[str] = []
    failures: Literal["worst", "exclude", "loss_rank"] = Field(
        default="worst", description="failed runs are scored worst, or left out for a reason; loss_rank is refused"
    )
    failures_reason: Text = ""
    parity: Literal["required", "waived"] = "required"
    parity_reason: Text = ""
    compute_tolerance: Annotated[float, Gt(0), Lt(1)] | Absent = Field(
        default=None, description="how far the arms' device seconds, tuning included, may differ; default: not compared"
    )
    exploratory: bool = False
