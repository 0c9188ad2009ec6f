"""What decides the results of a study: plain values in a fixed order, without places, labels or site settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from mtlfleet.plan.claims import Baseline, Claim, Estimand, Kind, Splits, Stopping
from mtlfleet.plan.claimschema import ClaimEntry, EstimandEntry
from mtlfleet.plan.draft import Draft
from mtlfleet.plan.place import Root, bucket_and_prefix, is_object_storage
from mtlfleet.plan.schema import SCHEMA, DatasetEntry, Distribution, Override, SeedRange, StudyFile
from mtlfleet.plan.trial import Recipe, canonical


def seeds_of(given: Sequence[int] | SeedRange) -> tuple[int, ...]:
    """An explicit list, or ``count`` consecutive seeds from ``base``."""
    return tuple(range(given.base, given.base + given.count)) if isinstance(given, SeedRange) else tuple(given)


def storage_root(path: Path, name: str, given: str | None) -> Root:
    """Where a study keeps its results: ``storage.root``, relative to the study file unless it is a bucket's URL, or
    ``runs/<study>`` beside it."""
    if given and is_object_storage(given):
        return "s3://" + "/".join(filter(None, bucket_and_prefix(given)))
    return (path.absolute().parent / (given or f"runs/{name}")).resolve()


def claim_of(given: ClaimEntry, datasets: Mapping[str, DatasetEntry]) -> Claim:
    """A claim of the file as a value; ``datasets``: those of the study, for their families."""
    general = given.scope == "datasets_like_these"
    families = (
        {d: e.dataset_family for d, e in datasets.items() if d in (given.datasets or datasets)} if general else {}
    )
    values = given.model_dump(
        exclude={"baseline", "estimand", "datasets", "architectures", "stopping", "splits", "failures"}
    )
    return Claim(
        **values,
        failures=_failures(given),
        baseline=Baseline(best_of=tuple(given.baseline.members), sweep=given.baseline.sweep is not None),
        estimand=_estimand(given.estimand),
        stopping=Stopping(
            kind=given.stopping.kind, looks=tuple(given.stopping.looks), alpha=tuple(given.stopping.alpha)
        ),
        splits=Splits(kind=given.splits.kind, test_fraction=given.splits.test_fraction),
        datasets=tuple(given.datasets),
        architectures=tuple(given.architectures),
        dataset_families=tuple((d, family) for d, family in sorted(families.items()) if family and family != d),
    )


def _failures(given: ClaimEntry) -> Literal["worst", "exclude"]:
    """Raises ValueError for what no claim may ask for; the rules refuse it before."""
    if given.failures == "loss_rank":
        raise ValueError("loss_rank is refused")
    return given.failures


def _estimand(given: EstimandEntry) -> Estimand:
    """Raises ValueError for a kind that no claim may have; the rules refuse it before."""
    if given.kind not in get_args(Kind):
        raise ValueError(f"{given.kind} is a description, not a claim's estimand")
    task, _, metric = (given.metric or "").partition(".")
    weights = given.w if isinstance(given.w, list) else [given.w] if isinstance(given.w, dict) else []
    return Estimand(
        kind=cast("Kind", given.kind),
        task=task or None,
        metric=metric or None,
        preferences=tuple(tuple(sorted(w.items())) for w in weights),
        eps=given.eps,
        target=given.target,
        device_s=given.device_s,
    )


def recipe_of(file: StudyFile) -> Recipe:
    """The `train` block as a value."""
    return Recipe(**file.train.model_dump())


def _distribution(given: Distribution) -> dict[str, Any]:
    return given.model_dump(by_alias=True, exclude_unset=True)


def _override(given: Override) -> dict[str, Any]:
    return {"when": given.when.model_dump(exclude_none=True), "set": given.set}


def science_of(draft: Draft) -> dict[str, Any]:
    """The study without titles, labels, places and site settings: plain JSON values, map order without meaning."""
    file, specs = draft.shaped.model, draft.specs
    methods = {
        n: {**specs["method", n].science(), "space": {k: _distribution(d) for k, d in m.space.items()}}
        for n, m in file.methods.items()
    }
    search = file.search
    science = {
        "schema": SCHEMA,
        "study": file.study,
        "methods": methods,
        "datasets": {n: specs["dataset", n].located() for n in file.datasets},
        "architectures": {n: specs["architecture", n].science() for n in file.architectures},
        "strategy": specs["strategy", "strategy"].science(),
        "seeds": list(seeds_of(file.seeds)),
        "train": recipe_of(file).science(),
        "search": {}
        if search is None
        else {
            "space": {k: _distribution(d) for k, d in search.space.items()},
            "trials_per_method": search.trials_per_method,
            "seeds": list(search.seeds),
            "select": search.select,
        },
        "exclude": [r.model_dump(exclude_none=True) for r in file.exclude],
        "include": [r.model_dump(exclude_none=True) for r in file.include],
        "overrides": [_override(o) for o in file.overrides],
        "workers": file.resources.workers,
        "claims": [claim_of(c, file.datasets).to_dict() for c in file.claims],
    }
    plain: dict[str, Any] = json.loads(canonical(science))
    return plain
