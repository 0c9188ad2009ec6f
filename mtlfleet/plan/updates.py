"""Methods whose direction is the update itself: the recipe's optimizer must leave it alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from mtlfleet.plan.document import Loc
from mtlfleet.plan.draft import Draft
from mtlfleet.plan.grid import included

NEUTRAL = {"train.optimizer": "sgd", "train.momentum": 0}


def check_updates(draft: Draft) -> None:
    """E414 where a method with an optimizer of its own would have its update adapted or averaged once more."""
    study = draft.shaped.model
    for name in study.methods:
        entry = draft.entries.get(("method", name))
        if entry is None or entry.traits.get("owns_update") is not True:
            continue
        for cell in product([name], study.datasets, study.architectures):
            wrong = [(key, v) for key in NEUTRAL for v in _values(draft, cell, key) if v != NEUTRAL[key]]
            if included(study, *cell) and wrong:
                _complain(draft, name, *wrong[0])
                break


def _complain(draft: Draft, method: str, key: str, value: Any) -> None:
    at: Loc = ("methods", method)
    draft.problems.add(
        "E414",
        f"method `{method}` is an optimizer with moments of its own, and would run with `{key}: {value}`",
        draft.document.key(at),
        caret="its update would be adapted once more",
        help=f"overrides: [{{when: {{method: {method}}}, set: {{train.optimizer: sgd, train.momentum: 0}}}}]",
    )


def _values(draft: Draft, cell: tuple[str, str, str], key: str) -> Iterator[Any]:
    """What a setting will be in a cell: each of its searched values, or the override's, or the recipe's."""
    study = draft.shaped.model
    spaces: Iterable[Any] = [study.methods[cell[0]].space, study.search.space if study.search else {}]
    for space in spaces:
        if key in space:
            yield from space[key].choice or [f"{key} searched"]
            return
    told = getattr(study.train, key.removeprefix("train."))
    for override in study.overrides:
        if override.when.matches(*cell) and key in override.set:
            told = override.set[key]
    if key == "train.momentum" and "sgd" not in set(_values(draft, cell, "train.optimizer")):
        return  # momentum is plain SGD's: other optimizers do not read it
    yield told
