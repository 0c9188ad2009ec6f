"""Is a claim's estimand, stopping rule, splits and correction one that can carry it? If not, why not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from mtlfleet.plan.claims import Kind
from mtlfleet.plan.claimschema import ClaimEntry
from mtlfleet.plan.document import Loc
from mtlfleet.plan.draft import Draft
from mtlfleet.plan.estimands import ESTIMANDS
from mtlfleet.plan.schema import SeedRange

DESCRIPTIONS = {kind: facts.refused for kind, facts in ESTIMANDS.items() if facts.refused}
_INSTEAD = f"estimand: {{kind: delta_m}}, {', '.join(get_args(Kind)[1:])}"


def check_estimand(draft: Draft, claim: ClaimEntry, loc: Loc) -> None:
    """E211: the estimand cannot carry this claim; E214: a preference among tasks that are not there."""
    kind, place = claim.estimand.kind, draft.document.value((*loc, "estimand", "kind"))
    why = DESCRIPTIONS.get(kind) or next(_misfits(claim), None)
    if why is not None:
        draft.problems.add(
            "E211", f"claim `{claim.id}`: no claim on {kind}", place, notes=[why],
            help=_INSTEAD if kind in DESCRIPTIONS else None,
        )  # fmt: skip
    elif isinstance(claim.estimand.w, dict | list):
        _preferences(draft, claim, loc)


def _misfits(claim: ClaimEntry) -> Iterator[str]:
    kind, stopping = claim.estimand.kind, claim.stopping.kind
    front = kind == "front_pref"
    if kind == "every_task" and claim.alternative != "non_inferiority":
        yield "every task at once is a safety claim: alternative: non_inferiority"
    if front and claim.alternative not in ("superiority", "no_better_than"):
        yield "a front is beaten or not: alternative: superiority or no_better_than"
    if claim.baseline.sweep is not None and not front:
        yield "a sweep has no single value to compare: use kind front_pref, or `best_of` with one method to tune"
    if not front and (claim.estimand.w is not None or claim.estimand.eps is not None):
        yield "`w` and `eps` belong to front_pref"
    if (front or kind == "every_task") and stopping == "anytime":
        yield "the e-process follows one difference; several at once are looked at on a schedule"
    if kind == "every_task" and claim.scope == "datasets_like_these":
        yield "safety is shown task by task on the datasets that were run: scope: these_datasets"
    yield from _on_the_way(claim)


def _on_the_way(claim: ClaimEntry) -> Iterator[str]:
    """What the kinds that are read along a curve need beside a metric, and where a second is no unit."""
    kind, given = claim.estimand.kind, claim.estimand
    needs = {"time_to_target": ("target", given.target), "compute_matched": ("device_s", given.device_s)}
    for owner, (name, value) in needs.items():
        if kind == owner and value is None:
            yield f"{kind} needs `{name}`, declared before the runs"
        if kind != owner and value is not None:
            yield f"`{name}` belongs to {owner}"
    if kind == "time_to_target" and claim.scope == "datasets_like_these":
        yield "seconds of one dataset are none of another: scope: these_datasets"


def _preferences(draft: Draft, claim: ClaimEntry, loc: Loc) -> None:
    given = claim.estimand.w if isinstance(claim.estimand.w, list) else [claim.estimand.w]
    place = draft.document.value((*loc, "estimand", "w"))
    for weights in given:
        if not isinstance(weights, dict):
            continue
        if not sum(weights.values()) > 0:
            draft.problems.add("E214", f"claim `{claim.id}`: a preference without a positive weight", place)
        for dataset in claim.datasets or draft.shaped.model.datasets:
            facts = draft.facts.get(dataset)
            known = {t.name for t in facts.tasks} if facts else set(weights)
            if lost := sorted(set(weights) ^ known):
                draft.problems.add(
                    "E214",
                    f"claim `{claim.id}`: a preference weighs every task of `{dataset}`; wrong: {', '.join(lost)}",
                    place,
                    notes=[f"tasks: {', '.join(sorted(known))}"],
                    help="w: equal fits every dataset",
                )
                return


def check_stopping(draft: Draft, claim: ClaimEntry, loc: Loc) -> None:
    """E212: looks that are no schedule, or that spend more than alpha."""
    given = claim.stopping
    seeds = draft.shaped.model.seeds
    count = seeds.count if isinstance(seeds, SeedRange) else len(seeds)
    wrong = None
    if given.kind != "group_sequential":
        if given.looks or given.alpha:
            wrong = f"`looks` and `alpha` belong to group_sequential, found kind {given.kind}"
    elif not given.looks or len(given.looks) != len(given.alpha):
        wrong = f"one alpha per look, found {len(given.looks)} looks and {len(given.alpha)} alphas"
    elif sorted(set(given.looks)) != given.looks:
        wrong = f"looks must increase, found {given.looks}"
    elif sum(given.alpha) > claim.alpha * (1 + 1e-9):
        wrong = f"the looks spend {sum(given.alpha):g} together, the claim has {claim.alpha:g}"
    elif draft.shaped.sound("seeds") and given.looks[-1] > count:
        wrong = f"the last look is at {given.looks[-1]} seeds, the study has {count}"
    if given.kind == "anytime" and claim.scope == "datasets_like_these":
        wrong = "anytime follows seeds; datasets like these are counted in datasets"
    if wrong:
        draft.problems.add("E212", f"claim `{claim.id}`: {wrong}", draft.document.value((*loc, "stopping")))


def check_splits(draft: Draft, claim: ClaimEntry, loc: Loc) -> None:
    """E216: resampled splits without what their correction needs."""
    given = claim.splits
    datasets = claim.datasets or list(draft.shaped.model.datasets)
    wrong = None
    if (given.kind == "resampled") != (given.test_fraction is not None):
        wrong = "`test_fraction` belongs to resampled splits, which need it"
    elif given.kind == "resampled" and len(datasets) < 2:
        wrong = "one dataset is no set of resampled splits"
    elif given.kind == "resampled" and claim.scope == "datasets_like_these":
        wrong = "resampled splits of one dataset say nothing about other datasets: scope: these_datasets"
    elif given.kind == "resampled" and claim.stopping.kind != "fixed":
        wrong = "overlapping splits are not exchangeable: stopping: {kind: fixed}"
    elif given.kind == "resampled" and claim.correction == "max_t":
        wrong = "overlapping splits are not exchangeable: correction: holm"
    if wrong:
        draft.problems.add("E216", f"claim `{claim.id}`: {wrong}", draft.document.value((*loc, "splits")))


def check_families(draft: Draft) -> None:
    """E213: a family that is corrected in two ways, or by a method that does not fit a member."""
    families: dict[str, list[tuple[int, ClaimEntry]]] = {}
    for i, claim in enumerate(draft.shaped.model.claims):
        families.setdefault(claim.family, []).append((i, claim))
    for family, members in families.items():
        first = members[0][1]
        for i, claim in members:
            place = draft.document.value((*draft.shaped.original("claims", i), "id"))
            wrong = None
            if claim.correction != first.correction:
                wrong = f"`{first.id}` is corrected by {first.correction}, `{claim.id}` by {claim.correction}"
            elif claim.correction == "max_t":
                wrong = _no_max_t(claim, first)
            if wrong:
                draft.problems.add("E213", f"family `{family}`: {wrong}", place)


def _no_max_t(claim: ClaimEntry, first: ClaimEntry) -> str | None:
    fits = claim.alternative != "equivalence" and claim.estimand.kind not in ("front_pref", "every_task")
    if not fits or claim.stopping.kind != "fixed" or claim.scope != "these_datasets":
        return f"max_t flips the pairs of one fixed test for all claims at once, which `{claim.id}` does not have"
    if (claim.datasets, claim.architectures, claim.alpha) != (first.datasets, first.architectures, first.alpha):
        return f"max_t needs the same datasets, architectures and alpha in `{first.id}` and `{claim.id}`"
    return None
