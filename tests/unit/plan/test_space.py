"""Search spaces: even, shared, without repeats, and the same on every machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlfleet.plan.space import Axis, Continuous, Finite, Space, configurations, simplex

finite = st.integers(1, 6).map(lambda n: Finite(tuple(range(n))))
continuous = st.just(Continuous(1e-4, 1e-1, log=True)) | st.just(Continuous(-1.0, 1.0))
commons = st.dictionaries(st.sampled_from(["train.lr", "train.momentum", "architecture.width"]), finite | continuous)
owns = st.dictionaries(st.sampled_from(["method.a", "method.b"]), finite | continuous)
budgets = st.integers(1, 40)


def spaces(common: Mapping[str, Axis], own: Mapping[str, Axis]) -> tuple[Space, Space]:
    first = Space.of(common)
    return first, Space.of(own, after=first, purpose="own")


def text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@given(commons, owns, budgets, st.integers(0, 2**40))
def test_no_configuration_comes_twice_and_none_is_missing(
    common: dict[str, Axis], own: dict[str, Axis], budget: int, seed: int
) -> None:
    first, second = spaces(common, own)
    found = configurations(first, second, budget, seed)
    assert len(found) == min(budget, first.size * second.size)
    assert len({text(c) for c in found}) == len(found)
    assert all(set(c) == {*common, *own} for c in found)


@given(commons, owns, owns, budgets, st.integers(0, 2**40))
def test_the_common_part_is_the_same_for_every_method(
    common: dict[str, Axis], own: dict[str, Axis], other: dict[str, Axis], budget: int, seed: int
) -> None:
    one, two = (configurations(*spaces(common, o), budget, seed) for o in (own, other))
    assert [{k: c[k] for k in common} for c, _ in zip(one, two, strict=False)] == [
        {k: c[k] for k in common} for _, c in zip(one, two, strict=False)
    ]


@given(commons, owns, budgets, st.integers(0, 2**40))
def test_the_order_in_the_file_decides_nothing(
    common: dict[str, Axis], own: dict[str, Axis], budget: int, seed: int
) -> None:
    backwards = [dict(reversed(axes.items())) for axes in (common, own)]
    assert configurations(*spaces(common, own), budget, seed) == configurations(*spaces(*backwards), budget, seed)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**40))
def test_a_larger_budget_keeps_the_earlier_points(few: int, more: int, seed: int) -> None:
    few, more = sorted((few, more))
    space = Space.of({"train.lr": Continuous(1e-4, 1e-1, log=True)})
    assert configurations(space, Space(), few, seed) == configurations(space, Space(), more, seed)[:few]


@given(st.integers(0, 2**40), st.integers(10, 100))
def test_continuous_points_are_even(seed: int, count: int) -> None:
    """Three-distance theorem: the gaps between n points of an irrational rotation stay of order 1/n."""
    axis = Continuous(0.0, 1.0)
    points = sorted(c["x"] for c in configurations(Space.of({"x": axis}), Space(), count, seed))
    gaps = [b - a for a, b in zip([points[-1] - 1, *points], points, strict=False)]
    assert max(gaps) < 4 / count


def test_values_stay_inside_and_have_six_digits() -> None:
    axis = Continuous(0.0012345678, 0.0012345679, log=True)
    assert all(axis.low <= axis.at(u / 10) <= axis.high for u in range(10))
    assert Continuous(1e-3, 1e-2, log=True).at(0.5) == 0.00316228


def test_a_grid_that_fits_is_walked_whole_and_one_that_does_not_is_drawn_without_repeats() -> None:
    space = Space.of({"a": Finite(range(10)), "b": Finite(range(100))})
    assert len({text(c) for c in configurations(space, Space(), 1000, 1)}) == 1000
    some = configurations(space, Space(), 50, 1)
    assert len({text(c) for c in some}) == 50
    assert len({c["b"] for c in some}) > 30, "drawn, not the first fifty in order"
    assert some != configurations(space, Space(), 50, 2)


@given(st.integers(2, 8), st.integers(1, 40))
def test_simplex_points_are_weights_and_include_the_uniform_one(tasks: int, points: int) -> None:
    found = simplex(tasks, points)
    assert len(set(found)) == points and found[0] == (1 / tasks,) * tasks
    assert all(math.isclose(sum(p), 1, abs_tol=1e-5) and min(p) > 0 and len(p) == tasks for p in found)


def test_simplex_points_of_two_tasks_are_the_even_grid() -> None:
    assert sorted(simplex(2, 5)) == [(i / 6, 1 - i / 6) for i in range(1, 6)] or sorted(simplex(2, 5)) == [
        (i / 6, (6 - i) / 6) for i in range(1, 6)
    ]


def test_simplex_of_many_tasks_stays_cheap() -> None:
    found = simplex(40, 100)
    assert len(set(found)) == 100 and all(min(p) > 0 for p in found)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_weights_and_rates_are_not_tied_together(count: int) -> None:
    """Each learning rate meets several weights when both axes are listed."""
    common, own = spaces({"train.lr": Finite(range(count))}, {"method.w": Finite(range(count))})
    found = configurations(common, own, count * 2, 0)
    assert all(len({c["method.w"] for c in found if c["train.lr"] == r}) == 2 for r in range(count))
