"""What a well-formed study may still get wrong about its grid, its search, its training and its machines."""

from __future__ import annotations

import re
from typing import Any

from mtlfleet.errors import among, nearest
from mtlfleet.plan.claimrules import check_claims
from mtlfleet.plan.document import Loc
from mtlfleet.plan.draft import RECIPE_TYPES, SECTIONS, Draft, escapes
from mtlfleet.plan.grid import included
from mtlfleet.plan.hyperparameters import adapter, coerce_with, complaint, shown
from mtlfleet.plan.leaks import check_validation
from mtlfleet.plan.metrics import known_metric
from mtlfleet.plan.place import bucket_and_prefix, is_object_storage
from mtlfleet.plan.schema import CellRule, Override, SeedRange, Simplex
from mtlfleet.plan.updates import check_updates

MAX_TRIALS = 200_000
_TEST = re.compile(r"(^|[^a-z0-9])test([^a-z0-9]|$)", re.IGNORECASE)


def check_rules(draft: Draft) -> None:
    """Every semantic check; each looks only at parts whose shape was right."""
    _seeds(draft)
    _train(draft)
    _search(draft)
    _select(draft)
    _simplexes(draft)
    _cells(draft)
    _overrides(draft)
    _resources(draft)
    _storage(draft)
    check_updates(draft)
    check_validation(draft)
    check_claims(draft)


def _numbers(given: list[int] | SeedRange) -> range | list[int]:
    return range(given.base, given.base + given.count) if isinstance(given, SeedRange) else given


def _seeds(draft: Draft) -> None:
    study, add = draft.shaped.model, draft.problems.add
    final = _numbers(study.seeds)
    lists: list[tuple[Loc, Any]] = [(("seeds",), final)]
    if study.search:
        lists.append((("search", "seeds"), study.search.seeds))
    for loc, numbers in lists:
        if isinstance(numbers, list) and len(set(numbers)) < len(numbers):
            twice = next(i for i, n in enumerate(numbers) if n in numbers[:i])
            add("E411", f"seed {numbers[twice]} is listed twice", draft.document.value((*loc, twice)))
    if study.search and draft.shaped.sound("search", "seeds") and draft.shaped.sound("seeds"):
        for i, seed in enumerate(study.search.seeds):
            if seed in final:
                add(
                    "E401",
                    f"tuning seed {seed} is also a final seed",
                    draft.document.value(("search", "seeds", i)),
                    caret="runs that chose a configuration cannot also judge it",
                    help="take tuning seeds outside `seeds`",
                )


def _train(draft: Draft) -> None:
    train = draft.shaped.model.train
    if (
        draft.shaped.sound("train", "steps")
        and draft.shaped.sound("train", "epochs")
        and (train.steps is None) == (train.epochs is None)
    ):
        both = train.steps is not None
        place = draft.document.key(("train", "epochs" if both else ""))
        draft.problems.add(
            "E405",
            "`train` gives both steps and epochs" if both else "`train` gives neither steps nor epochs",
            place,
            caret="give exactly one",
        )
    elsewhere = {name for name, _ in draft.common.axes} | {name for o in draft.shaped.model.overrides for name in o.set}
    if train.schedule != "step" and "train.schedule" not in elsewhere:
        for name in sorted({"decay", "decays"} & train.model_fields_set):
            draft.problems.add(
                "E417",
                f"`{name}` says nothing with schedule: {train.schedule}",
                draft.document.key(("train", name)),
                caret="only schedule: step decays",
                help=f"add schedule: step, or remove {name}",
            )
    workers = draft.shaped.model.resources.workers
    if train.global_batch < workers:
        draft.problems.add(
            "E412",
            f"global_batch {train.global_batch} is smaller than the number of workers, {workers}",
            draft.document.value(("train", "global_batch")),
            caret="each rank needs at least one sample",
        )


def _search(draft: Draft) -> None:
    study, problems = draft.shaped.model, draft.problems
    if study.search is None and not draft.shaped.bad & {("search",)}:
        for name, method in study.methods.items():
            if method.space and draft.document.at(("search",)) is None:
                problems.add(
                    "E407",
                    f"method `{name}` has a space, but the study has no search",
                    draft.document.key(("methods", name, "space")),
                    help="add search: {trials_per_method: ..., seeds: [...]}",
                )
        return
    if study.search is None:
        return
    for name, own in draft.own.items() if draft.spaces_sound else ():
        size = draft.common.size * own.size
        if size < study.search.trials_per_method and name in draft.ids("method"):
            problems.warn(
                "W503",
                f"method `{name}` has {size:g} distinct configurations, trials_per_method is "
                f"{study.search.trials_per_method}",
                draft.document.key(("methods", name)),
                help="a continuous axis in search.space (train.lr) gives every method the same chances",
            )
    runs = study.search.trials_per_method * len(study.search.seeds) + len(_numbers(study.seeds))
    total = runs * len(study.methods) * len(study.datasets) * len(study.architectures)
    if total > MAX_TRIALS:
        problems.add(
            "E408",
            f"the study has about {total:,} trials, at most {MAX_TRIALS:,} are planned",
            draft.document.key(("search", "trials_per_method")),
        )


def _select(draft: Draft) -> None:
    study = draft.shaped.model
    if study.search is None or not draft.shaped.sound("search", "select"):
        return
    select, place = study.search.select, draft.document.value(("search", "select"))
    if _TEST.search(select):
        draft.problems.add(
            "E402",
            f"`select: {shown(select)}` would read the test split",
            place,
            caret="selection reads validation only",
            help="name the metric without a split, e.g. left.accuracy",
        )
    elif select == "delta_m":
        if not any(draft.single_task(m) for m in study.methods):
            draft.problems.add(
                "E205", "`select: delta_m` needs a single-task reference", place, help="add a method {use: stl}"
            )
    elif select != "skill":
        known_metric(draft, select, tuple(study.datasets), place, "E403", also=("skill", "delta_m"))


def _simplexes(draft: Draft) -> None:
    """Static weights have one entry per task, wherever they are written."""
    study = draft.shaped.model
    counts = {name: len(facts.tasks) for name, facts in draft.facts.items()}
    for name, method in study.methods.items():
        entry = draft.entries.get(("method", name))
        if entry is None or not any(p.name == "weights" for p in entry.parameters):
            continue
        found: list[tuple[int, Loc]] = []
        fixed = method.params.get("weights")
        if isinstance(fixed, list) and fixed:
            found.append((len(fixed), ("methods", name, "params", "weights")))
        given = method.space.get("weights")
        here: Loc = ("methods", name, "space", "weights")
        if given is not None and isinstance(given.simplex, Simplex):
            found.append((given.simplex.tasks, (*here, "simplex", "tasks")))
        elif given is not None and given.choice is not None:
            found += [(len(v), (*here, "choice", i)) for i, v in enumerate(given.choice) if isinstance(v, list)]
        _lengths(draft, name, found, counts)


def _lengths(draft: Draft, method: str, found: list[tuple[int, Loc]], counts: dict[str, int]) -> None:
    architectures = draft.shaped.model.architectures
    for length, loc in found:
        for dataset, tasks in counts.items():
            used = any(included(draft.shaped.model, method, dataset, a) for a in architectures)
            if used and length not in (0, tasks):
                draft.problems.add(
                    "E404",
                    f"{length} weights, but dataset `{dataset}` has {tasks} tasks",
                    draft.document.value(loc),
                    caret=f"expected {tasks}",
                )
                break


def _rule(draft: Draft, rule: CellRule, loc: Loc) -> None:
    for kind in SECTIONS:
        name, known = getattr(rule, kind), draft.ids(kind)
        if name is not None and name not in known:
            close = nearest(name, known)
            draft.problems.add(
                "E306",
                f"the study has no {kind} `{shown(name)}`",
                draft.document.value((*loc, kind)),
                caret=f"did you mean `{close}`?" if close else "",
                notes=[among(known, name)],
            )


def _cells(draft: Draft) -> None:
    study = draft.shaped.model
    for section in ("exclude", "include"):
        for i, rule in enumerate(getattr(study, section)):
            _rule(draft, rule, draft.shaped.original(section, i))
    grid = [(m, d, a) for m in study.methods for d in study.datasets for a in study.architectures]
    if study.exclude and not any(included(study, *cell) for cell in grid):
        draft.problems.add("E408", "`exclude` leaves no cell", draft.document.key(("exclude",)))


def _overrides(draft: Draft) -> None:
    study = draft.shaped.model
    for i, override in enumerate(study.overrides):
        loc = draft.shaped.original("overrides", i)
        _rule(draft, override.when, (*loc, "when"))
        for key, value in override.set.items():
            _setting(draft, override, key, value, (*loc, "set", key))


def _setting(draft: Draft, override: Override, key: str, value: Any, loc: Loc) -> None:
    scope, _, name = key.partition(".")
    if key in dict(draft.common.axes):
        draft.problems.add("E406", f"`{key}` is searched, so it cannot be overridden", draft.document.key(loc))
    elif scope == "train" and name in RECIPE_TYPES:
        wants = complaint(RECIPE_TYPES[name], value)
        if wants:
            draft.problems.add(
                "E105",
                f"`{key}`: expected {wants}, found `{shown(value)}`",
                draft.document.value(loc),
                caret=f"expected {wants}",
            )
        else:
            override.set[key] = coerce_with(RECIPE_TYPES[name], value)
    elif scope in ("method", "architecture") and name:
        wanted = getattr(override.when, scope)
        for one in [wanted] if wanted else draft.ids(scope):
            entry = draft.entries.get((scope, one))
            if entry is None:
                continue
            if not draft.check_param(entry, name, value, loc):
                return
            kind = adapter(next(p.annotation for p in entry.parameters if p.name == name))
            override.set[key] = coerce_with(kind, value)
    else:
        known = [f"train.{n}" for n in RECIPE_TYPES]
        close = nearest(key, known)
        draft.problems.add(
            "E104",
            f"unknown setting `{shown(key)}` in an override",
            draft.document.key(loc),
            caret=f"did you mean `{close}`?" if close else "",
            notes=["known: train.*, method.*, architecture.*"],
        )


def _resources(draft: Draft) -> None:
    given = draft.shaped.model.resources
    place = draft.document.value(("resources", "gpus_per_worker"))
    whole = float(given.gpus_per_worker).is_integer()
    if given.workers > 1 and not whole:
        draft.problems.add(
            "E409",
            f"{given.workers} workers with {given.gpus_per_worker:g} of a GPU each",
            place,
            caret="ranks of one trial cannot share a GPU",
            help="gpus_per_worker: 1, or workers: 1",
        )
    elif given.gpus_per_worker > 1 and not whole:
        draft.problems.add(
            "E409", f"{given.gpus_per_worker:g} GPUs per worker", place, caret="more than one: whole numbers only"
        )


def _storage(draft: Draft) -> None:
    root = draft.shaped.model.storage.root
    if root is None or not draft.shaped.sound("storage", "root"):
        return
    place = draft.document.value(("storage", "root"))
    if is_object_storage(root):
        try:
            bucket_and_prefix(root)
        except ValueError as error:
            draft.problems.add("E410", f"storage.root `{shown(root)}`: {error}", place, caret="not a place in a bucket")
    elif "://" in root or "\x00" in root or not root.strip():
        draft.problems.add(
            "E410",
            f"storage.root `{shown(root)}` is neither a folder nor a place in a bucket",
            place,
            caret="expected a folder of a local or shared file system, or s3://bucket/prefix",
        )
    elif not root.startswith("/") and escapes(root):
        draft.problems.add(
            "E410",
            f"storage.root `{shown(root)}` leaves the study's folder",
            place,
            help="write an absolute path if you mean a place outside",
        )
