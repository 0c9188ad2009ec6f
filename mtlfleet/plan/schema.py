"""The shape of a study file: pydantic models, from which the JSON Schema for editors is made as well."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, create_model, model_validator

from mtlfleet.plan.claimschema import ClaimEntry
from mtlfleet.plan.place import PUBLISH_MAX_BYTES
from mtlfleet.plan.scalars import Absent, Id, Name, Pair, Params, Seed, Shape, Text
from mtlfleet.plan.trial import Recipe

SCHEMA = "mtlfleet/study/1"


class Steps(Shape):
    """Evenly spaced values, ends included."""

    start: float = Field(alias="from")
    stop: float = Field(alias="to")
    points: Annotated[int, Ge(2), Le(1000)]
    scale: Literal["linear", "log"] = "linear"


class Simplex(Shape):
    """Weight vectors with positive entries that sum to one; the uniform one is always among them."""

    tasks: Annotated[int, Ge(2), Le(64)]
    points: Annotated[int, Ge(1), Le(512)]


def _grid_kind(value: Any) -> str:
    return "points" if isinstance(value, dict | Steps) else "list"


Values = Annotated[list[JsonValue], MinLen(1), MaxLen(1000)]


class Distribution(Shape):
    """Where a value comes from; exactly one key."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    uniform: Pair | Absent = Field(default=None, description="[low, high]: a real number, evenly")
    log_uniform: Pair | Absent = Field(
        default=None, description="[low, high] > 0: a real number, evenly in its logarithm"
    )
    choice: Values | Absent = Field(default=None, description="one of these values")
    int_: Annotated[list[int], MinLen(2), MaxLen(2)] | Absent = Field(
        default=None, alias="int", description="[low, high]: a whole number, ends included"
    )
    grid: (
        Annotated[Annotated[Values, Tag("list")] | Annotated[Steps, Tag("points")], Discriminator(_grid_kind)] | Absent
    ) = Field(default=None, description="these values in order, or {from, to, points, scale}")
    simplex: Simplex | Absent = Field(default=None, description="static task weights spread over the simplex")

    @model_validator(mode="after")
    def _one(self) -> Distribution:
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one of uniform, log_uniform, choice, int, grid, simplex")
        return self


class Citizen(Shape):
    """Something of the registry under the study's own name for it."""

    use: str | Absent = Field(
        default=None, description="registry name, `name@preset` for a source's convention; default: the id"
    )
    params: Params = Field(default={}, description="hyper-parameters; what is left out takes the default")
    label: Text | Absent = Field(default=None, description="free text, shown in the report")


class DatasetEntry(Citizen):
    dataset_family: Id | Absent = Field(
        default=None,
        description="variants of one source share a family, and a claim about datasets_like_these counts families; "
        "default: the dataset's own id",
    )


class MethodEntry(Citizen):
    heads: Literal["unweighted", "weighted"] | Absent = Field(
        default=None, description="whether task parameters see their task's weight; default: as the method's source"
    )
    scale: Literal["native", "sum_k", "unit_norm", "match_sum_norm"] = Field(
        default="native",
        description="how long the update is: as the method makes it, weights summing to the number of tasks, norm one, "
        "or the norm of the plain sum",
    )
    space: dict[str, Distribution] = Field(default={}, description="the method's own part of the search space")


class StrategyEntry(Shape):
    use: str = "joint"
    params: Params = {}


class SeedRange(Shape):
    """``count`` consecutive seeds from ``base`` on."""

    count: Annotated[int, Ge(1), Le(10_000)]
    base: Annotated[int, Ge(0), Lt(2**62)] = 0


def _seeds_kind(value: Any) -> str:
    return "range" if isinstance(value, dict | SeedRange) else "list"


SeedList = Annotated[list[Seed], MinLen(1), MaxLen(10_000)]
Seeds = Annotated[Annotated[SeedList, Tag("list")] | Annotated[SeedRange, Tag("range")], Discriminator(_seeds_kind)]

_RECIPE: dict[str, Any] = {
    name: (hint, getattr(Recipe, name)) for name, hint in get_type_hints(Recipe, include_extras=True).items()
}
Train: Any = create_model(
    "Train", __base__=Shape, __doc__="How every trial trains: steps or epochs, not both.", **_RECIPE
)


class Search(Shape):
    """Tuning, with the same chances for every method."""

    space: dict[str, Distribution] = Field(default={}, description="common to all methods: train.*, architecture.*")
    trials_per_method: Annotated[int, Ge(1), Le(10_000)] = Field(
        description="configurations per method, dataset and architecture"
    )
    seeds: SeedList = Field(description="tuning seeds; none of the study's final seeds")
    select: str = Field(default="skill", description="skill, delta_m, or task.metric; always on the validation split")


class CellRule(Shape):
    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    method: str | Absent = None
    dataset: str | Absent = None
    architecture: str | Absent = None

    @model_validator(mode="after")
    def _some(self) -> CellRule:
        if not self.model_fields_set:
            raise ValueError("at least one of method, dataset, architecture")
        return self

    def matches(self, method: str, dataset: str, architecture: str) -> bool:
        here = (method, dataset, architecture)
        return all(
            w is None or w == h for w, h in zip((self.method, self.dataset, self.architecture), here, strict=True)
        )


class Override(Shape):
    when: CellRule
    set: Annotated[dict[str, JsonValue], MinLen(1)]


class ResourcesEntry(Shape):
    workers: Annotated[int, Ge(1), Le(4096)] = Field(
        default=1, description="data-parallel ranks per trial; part of every trial's key"
    )
    cpus_per_worker: Annotated[float, Gt(0)] = 1.0
    gpus_per_worker: Annotated[float, Ge(0)] = 0.0
    max_concurrent: Annotated[int, Ge(1)] | None = None


class Publish(Shape):
    max_bytes: Annotated[int, Ge(1)] = Field(
        default=PUBLISH_MAX_BYTES,
        description="of a results.duckdb larger than this, step metrics and task gradients of ended trials are sealed"
        " in Parquet files beside it",
    )


class Storage(Shape):
    root: str | Absent = Field(
        default=None, description="folder of the results, or s3://bucket/prefix; default runs/<study> beside the file"
    )
    publish: Publish = Publish()
    weights: Literal["none", "final"] = Field(
        default="none", description="final: keep the model that validation chose, of every final trial; see artifacts"
    )


class Mirrors(Shape):
    """Trackers that get a copy when a launch ends."""

    mlflow: str | Absent = Field(default=None, description="tracking URI; ${env:NAME} is filled in")
    tensorboard: str | Absent = Field(default=None, description="folder, relative to the study file")


class Report(Shape):
    title: Text | Absent = None


class StudyFile(Shape):
    """A study: methods x datasets x seeds, and the claims they decide."""

    schema_: Literal["mtlfleet/study/1"] = Field(alias="schema")
    study: Name
    title: Text = ""
    plugins: list[str] = Field(
        default=[], description="files beside the study (./tilt.py) or dotted modules; nothing else is imported"
    )
    methods: Annotated[dict[Id, MethodEntry], MinLen(1)]
    datasets: Annotated[dict[Id, DatasetEntry], MinLen(1)]
    architectures: Annotated[dict[Id, Citizen], MinLen(1)]
    strategy: StrategyEntry = StrategyEntry()
    seeds: Seeds
    train: Train
    search: Search | Absent = None
    exclude: list[CellRule] = []
    include: list[CellRule] = []
    overrides: list[Override] = []
    resources: ResourcesEntry = ResourcesEntry()
    claims: list[ClaimEntry] = []
    storage: Storage = Storage()
    report: Report = Report()
    mirrors: Mirrors = Mirrors()
