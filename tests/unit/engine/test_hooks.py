"""Gradients handed over in groups: each once, in order where order counts, whatever comes when."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtlfleet.engine.hooks import GROUP, Arrivals
from mtlfleet.engine.layout import Layout

LARGE = GROUP // 2 + 1  # two of them fill a group


class Seen:
    """Takes gradients, and remembers which were there."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.taken: list[tuple[int, bool]] = []
        self.during = 0

    def __call__(self, members: range) -> None:
        for member in members:
            self.taken.append((member, self.parameters[member].grad is not None))
            self.parameters[member].grad = None


def one_pass(arrivals: Arrivals, parameters: list[nn.Parameter], order: list[int]) -> Seen:
    """A pass that gives gradients in this order."""
    seen = Seen(parameters)
    arrivals.begin()
    with arrivals.hooked(seen):
        for index in order:
            parameters[index].sum().backward()  # type: ignore[no-untyped-call]
        seen.during = len(seen.taken)
    arrivals.end(seen)
    return seen


def made(*, ordered: bool) -> tuple[Arrivals, list[nn.Parameter]]:
    """Three groups of two."""
    parameters = [nn.Parameter(torch.zeros(LARGE)) for _ in range(6)]
    return Arrivals(Layout.of(parameters, 1), ordered=ordered), parameters


@pytest.mark.parametrize("ordered", [True, False])
def test_each_is_taken_once_while_the_pass_runs_also_when_another_comes_last(ordered: bool) -> None:
    arrivals, parameters = made(ordered=ordered)
    everything = [(index, True) for index in range(6)]
    for order in ([0, 1, 2, 3, 4, 5], [1, 0, 3, 2, 4, 5], [0, 1, 2, 3, 4, 5]):
        seen = one_pass(arrivals, parameters, order)
        assert seen.taken == everything and seen.during == 6


def test_order_is_kept_where_it_counts() -> None:
    late = [2, 3, 4, 5, 0, 1]
    arrivals, parameters = made(ordered=True)
    assert [member for member, _ in one_pass(arrivals, parameters, late).taken] == [0, 1, 2, 3, 4, 5]
    arrivals, parameters = made(ordered=False)
    assert [member for member, _ in one_pass(arrivals, parameters, late).taken] == late


@pytest.mark.parametrize("ordered", [True, False])
def test_what_never_comes_is_told_at_the_end(ordered: bool) -> None:
    arrivals, parameters = made(ordered=ordered)
    for _ in range(2):
        seen = one_pass(arrivals, parameters, [0, 3, 4, 5])
        assert sorted(seen.taken) == [(0, True), (1, False), (2, False), (3, True), (4, True), (5, True)]
        assert seen.during == (0 if ordered else 2)
    assert one_pass(arrivals, parameters, [0, 1, 2, 3, 4, 5]).taken == [(index, True) for index in range(6)]


@pytest.mark.parametrize("again", [0, 1])
def test_a_gradient_that_comes_after_its_group_was_taken_is_an_error(again: int) -> None:
    arrivals, parameters = made(ordered=True)
    one_pass(arrivals, parameters, [0, 1, 2, 3, 4, 5])  # from now on only 1 tells of the first two
    with pytest.raises(RuntimeError, match=f"parameter number {again} got its gradient twice"):
        one_pass(arrivals, parameters, [0, 1, 2, 3, 4, 5, again])
