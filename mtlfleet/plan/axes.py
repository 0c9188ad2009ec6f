"""From a study's distributions to axes of a search space, every value checked against what it is for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from mtlfleet.plan.document import Document, Loc
from mtlfleet.plan.hyperparameters import shown
from mtlfleet.plan.problems import Problems
from mtlfleet.plan.schema import Distribution, Steps
from mtlfleet.plan.space import Axis, Continuous, Finite, simplex, six_digits

MAX_INTEGERS = 1_000_000

Complain = Callable[[Any], str | None]
Convert = Callable[[Any], Any]


class _AxisError(Exception):
    pass


def read_axis(
    given: Distribution, complain: Complain, convert: Convert, loc: Loc, document: Document, problems: Problems
) -> Axis | None:
    """The axis a distribution describes; None after saying what is wrong with it."""
    kind = next(iter(given.model_fields_set)).rstrip("_")
    here = (*loc, kind)

    def fit(value: Any, at: Loc) -> None:
        wants = complain(value)
        if wants is not None:
            problems.add(
                "E105", f"`{shown(value)}` in the space of `{loc[-1]}`", document.value(at), caret=f"expected {wants}"
            )
            raise _AxisError

    def refuse(message: str) -> None:
        problems.add("E406", f"`{loc[-1]}`: {message}", document.value(here))
        raise _AxisError

    try:
        if kind in ("uniform", "log_uniform"):
            return _real_axis(given.uniform or given.log_uniform or [], kind == "log_uniform", here, fit, refuse)
        if kind == "int":
            low, high = given.int_ or [0, 0]
            fit(low, (*here, 0))
            fit(high, (*here, 1))
            if not low < high or high - low >= MAX_INTEGERS:
                refuse(f"int needs low < high and fewer than {MAX_INTEGERS:,} values, found [{low}, {high}]")
            return Finite(range(low, high + 1))
        values, places = _listed(given, here, refuse)
        for value, at in zip(values, places, strict=True):
            fit(value, at)
        if len({json.dumps(v, sort_keys=True) for v in values}) < len(values):
            refuse("the same value twice")
        return Finite(tuple(convert(v) for v in values))
    except _AxisError:
        return None


def _real_axis(
    ends: list[float], log: bool, here: Loc, fit: Callable[[Any, Loc], None], refuse: Callable[[str], None]
) -> Axis:
    low, high = map(float, ends)
    if not low < high or (log and low <= 0):
        refuse(f"needs {'0 < ' if log else ''}low < high, found [{low:g}, {high:g}]")
    axis = Continuous(low, high, log)
    fit(low, (*here, 0))
    fit(high, (*here, 1))
    fit(axis.at(0.3819), here)  # a point inside, off every round number: catches whole-number parameters
    return axis


def _listed(given: Distribution, here: Loc, refuse: Callable[[str], None]) -> tuple[list[Any], list[Loc]]:
    if given.simplex is not None:
        points = [list(p) for p in simplex(given.simplex.tasks, given.simplex.points)]
        return points, [here] * len(points)
    if isinstance(given.grid, Steps):
        steps = given.grid
        if not steps.start < steps.stop or (steps.scale == "log" and steps.start <= 0):
            refuse(f"grid needs {'0 < ' if steps.scale == 'log' else ''}from < to")
        parts = [i / (steps.points - 1) for i in range(steps.points)]
        ends = (steps.start, steps.stop) if steps.scale == "linear" else (math.log(steps.start), math.log(steps.stop))
        line = [ends[0] * (1 - u) + ends[1] * u for u in parts]
        spaced = (
            line
            if steps.scale == "linear"
            else [steps.start, *(six_digits(math.exp(x)) for x in line[1:-1]), steps.stop]
        )
        return spaced, [here] * len(spaced)
    values: list[Any] = list(given.choice if given.choice is not None else given.grid or [])
    return values, [(*here, i) for i in range(len(values))]
