"""Claims against the study they stand in: do their words exist, are the chances equal, could the design ever answer?"""

from __future__ import annotations

import math

from mtlfleet.errors import Place, nearest
from mtlfleet.plan.claims import ON_THE_WAY
from mtlfleet.plan.claimschema import ClaimEntry
from mtlfleet.plan.document import Loc
from mtlfleet.plan.draft import SECTIONS, Draft
from mtlfleet.plan.estimandrules import check_estimand, check_families, check_splits, check_stopping
from mtlfleet.plan.grid import included
from mtlfleet.plan.hyperparameters import shown
from mtlfleet.plan.metrics import known_metric
from mtlfleet.plan.schema import SeedRange
from mtlfleet.plan.tasks import METRICS

_OF_A_METRIC = ("metric", "delta_task", *ON_THE_WAY)
_PARITY = (
    "set search.trials_per_method and a common space, or declare `parity: waived` with a reason (printed in the report)"
)


def check_claims(draft: Draft) -> None:
    """Every claim's checks, then those of the families."""
    seen: dict[str, int] = {}
    for i, claim in enumerate(draft.shaped.model.claims):
        loc = draft.shaped.original("claims", i)
        place = draft.document.value((*loc, "id"))
        if claim.id in seen:
            draft.problems.add("E208", f"claim `{claim.id}` is there twice", place)
        seen[claim.id] = i
        names_sound = _names(draft, claim, loc)
        _metric(draft, claim, loc)
        _failures(draft, claim, loc)
        check_estimand(draft, claim, loc)
        check_stopping(draft, claim, loc)
        check_splits(draft, claim, loc)
        if names_sound:
            _parity(draft, claim, loc, place)
            _reference(draft, claim, place)
            _present(draft, claim, place)
        _power(draft, claim, place)
    check_families(draft)


def baseline_of(claim: ClaimEntry) -> list[str]:
    return claim.baseline.members


def _names(draft: Draft, claim: ClaimEntry, loc: Loc) -> bool:
    """Whether all methods, datasets and architectures that the claim names are in the study."""
    asked: list[tuple[str, str, Loc]] = [("method", claim.method, (*loc, "method"))]
    key = "best_of" if claim.baseline.best_of is not None else "sweep" if claim.baseline.sweep is not None else None
    for k, member in enumerate(claim.baseline.members):
        asked.append(("method", member, (*loc, "baseline", key, k) if key else (*loc, "baseline", "method")))
    asked += [("dataset", d, (*loc, "datasets", k)) for k, d in enumerate(claim.datasets)]
    asked += [("architecture", a, (*loc, "architectures", k)) for k, a in enumerate(claim.architectures)]
    sound = True
    for kind, name, at in asked:
        known = draft.ids(kind)
        if name not in known:
            close = nearest(name, known)
            draft.problems.add(
                "E202",
                f"claim `{claim.id}`: the study has no {kind} `{shown(name)}`",
                draft.document.value(at),
                caret=f"did you mean `{close}`?" if close else "",
                notes=[f"{SECTIONS[kind]}: {', '.join(known)}"],
            )
            sound = False
    members = baseline_of(claim)
    if claim.method in members:
        draft.problems.add(
            "E206", f"claim `{claim.id}` compares `{claim.method}` with itself", draft.document.key((*loc, "baseline"))
        )
        sound = False
    if len(set(members)) < len(members):
        draft.problems.add("E206", f"claim `{claim.id}` names a baseline twice", draft.document.key((*loc, "baseline")))
        sound = False
    return sound


def _metric(draft: Draft, claim: ClaimEntry, loc: Loc) -> None:
    given, place = claim.estimand, draft.document.value((*loc, "estimand", "metric"))
    if given.kind not in _OF_A_METRIC and given.metric is not None:
        draft.problems.add("E203", f"claim `{claim.id}`: {given.kind} takes no metric", place, help="kind: metric")
    elif given.kind in _OF_A_METRIC and given.metric is None:
        draft.problems.add(
            "E203",
            f"claim `{claim.id}`: kind `{given.kind}` lacks the metric",
            draft.document.key((*loc, "estimand")),
            caret="add `metric: task.metric`",
        )
    elif given.metric is not None:
        datasets = tuple(claim.datasets or draft.shaped.model.datasets)
        known_metric(draft, given.metric, datasets, place, "E203")
        known = METRICS.get(given.metric.partition(".")[2])
        if given.kind == "delta_task" and known is not None and known.scale != "ratio":
            draft.problems.add(
                "E211",
                f"claim `{claim.id}`: no percent change of {given.metric}",
                place,
                notes=["the metric has no true zero, so a percent of it depends on where its zero was put"],
                help="kind: metric claims the difference itself",
            )


def _failures(draft: Draft, claim: ClaimEntry, loc: Loc) -> None:
    """E217: what may be done with failed runs."""
    place = draft.document.value((*loc, "failures"))
    if claim.failures == "loss_rank":
        draft.problems.add(
            "E217",
            f"claim `{claim.id}`: no claim on loss_rank",
            place,
            notes=["a rank of losses has no size that a margin could bound, and changes with the methods in the study"],
            help="failures: worst",
        )
    elif claim.failures == "exclude" and not claim.failures_reason.strip():
        draft.problems.add(
            "E217",
            f"claim `{claim.id}` leaves failed runs out without a reason",
            place,
            caret="add `failures_reason:`",
        )
    elif claim.failures == "exclude" and (
        claim.estimand.kind in ("every_task", "front_pref")
        or claim.stopping.kind != "fixed"
        or claim.correction == "max_t"
    ):
        draft.problems.add(
            "E217",
            f"claim `{claim.id}`: failed runs can be left out of one difference, judged once",
            place,
            notes=["fronts, every_task, max_t and further looks need the same pairs in all their parts"],
            help="failures: worst",
        )


def _configurations(draft: Draft, method: str) -> int:
    search, own = draft.shaped.model.search, draft.own.get(method)
    if search is None or own is None:
        return 1
    return int(min(search.trials_per_method, draft.common.size * own.size))


def _parity(draft: Draft, claim: ClaimEntry, loc: Loc, place: Place) -> None:
    waived = claim.parity == "waived"
    if waived and not claim.parity_reason.strip():
        draft.problems.add(
            "E207",
            f"claim `{claim.id}` waives parity without a reason",
            draft.document.value((*loc, "parity")),
            caret="add `parity_reason:`",
        )
    members = baseline_of(claim)
    if (
        not draft.spaces_sound
        or not draft.shaped.sound("search")
        or any(m not in draft.own for m in [claim.method, *members])
    ):
        return
    mine, each = _configurations(draft, claim.method), [_configurations(draft, m) for m in members]
    theirs = sum(each)
    # Fair either way: every member had the method's number of chances, or all members together did.
    if mine != theirs and any(mine != count for count in each) and not waived:
        runs = "tuning trial" if mine == 1 else "tuning trials"
        draft.problems.add(
            "E201",
            f"claim `{claim.id}` compares {mine} {runs} ({claim.method}) with {theirs} ({', '.join(members)})",
            place,
            help=_PARITY,
        )


def _cells_of(draft: Draft, claim: ClaimEntry) -> list[tuple[str, str]]:
    study = draft.shaped.model
    return [(d, a) for d in claim.datasets or study.datasets for a in claim.architectures or study.architectures]


def _reference(draft: Draft, claim: ClaimEntry, place: Place) -> None:
    """Both averages are relative to single-task runs on the same dataset and architecture."""
    study = draft.shaped.model
    absolute = claim.estimand.kind in ("metric", *ON_THE_WAY)
    if absolute or any(("method", m) not in draft.entries for m in draft.ids("method")):
        return
    singles = [m for m in study.methods if draft.single_task(m)]
    for dataset, architecture in _cells_of(draft, claim):
        if not any(included(study, m, dataset, architecture) for m in singles):
            draft.problems.add(
                "E205",
                f"claim `{claim.id}` is about {claim.estimand.kind}, but `{dataset}` has no single-task runs",
                place,
                help="add a method {use: stl}",
            )
            return


def _present(draft: Draft, claim: ClaimEntry, place: Place) -> None:
    for dataset, architecture in _cells_of(draft, claim):
        for method in [claim.method, *baseline_of(claim)]:
            if not included(draft.shaped.model, method, dataset, architecture):
                draft.problems.add(
                    "E202", f"claim `{claim.id}` needs `{method}` on `{dataset}`, which `exclude` takes out", place
                )
                return


def _power(draft: Draft, claim: ClaimEntry, place: Place) -> None:
    """Warnings about designs that cannot answer, however the runs come out."""
    study = draft.shaped.model
    given = study.seeds
    seeds = given.count if isinstance(given, SeedRange) else len(given)
    named = [d for d in claim.datasets or study.datasets if d in study.datasets]
    datasets = len({study.datasets[d].dataset_family or d for d in named})
    strata = 1 if claim.estimand.kind == "every_task" else len(_cells_of(draft, claim))
    family = sum(c.family == claim.family for c in study.claims)
    sequential = claim.stopping.kind == "group_sequential" and len(claim.stopping.looks) == len(claim.stopping.alpha)
    looks = list(zip(claim.stopping.looks, claim.stopping.alpha, strict=True)) if sequential else [(seeds, claim.alpha)]
    flips = claim.scope == "these_datasets" and claim.splits.kind != "resampled" and claim.stopping.kind != "anytime"
    for count, alpha in looks if draft.shaped.sound("seeds") and flips else ():
        smallest, needed = 2.0 ** -(count * strata), alpha / family
        if smallest > needed:
            what = "can never be supported" if not sequential else f"can never be decided at its look of {count} seeds"
            draft.problems.warn(
                "W501",
                f"claim `{claim.id}` {what}: the smallest p-value of {count} seeds x {strata} "
                f"dataset{'s' if strata > 1 else ''} is {smallest:.2g}, needed is {needed:.2g}",
                place,
                notes=[
                    f"alpha {alpha:g}, Holm over {family} claim{'s' if family > 1 else ''} of family `{claim.family}`"
                ],
                help="more seeds" if not sequential else f"a first look at {_first_useful(needed, strata)} seeds",
            )
    if claim.scope == "datasets_like_these" and datasets < 6:
        weak = "can never be supported with fewer than 3" if datasets < 3 else "is weak with fewer than 6"
        draft.problems.warn(
            "W502",
            f"claim `{claim.id}` speaks of datasets like these and has {datasets}{_families(datasets, len(named))}: "
            f"it {weak}",
            place,
            help="scope: these_datasets, or more datasets",
        )


def _families(families: int, datasets: int) -> str:
    return f" ({datasets} of them, in {families} families)" if families < datasets else ""


def _first_useful(needed: float, strata: int) -> int:
    """Seeds per dataset from which on some outcome is significant at level ``needed``."""
    return math.ceil(-math.log2(needed) / strata)
