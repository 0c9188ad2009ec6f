"""What every strategy promises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlfleet import registry
from mtlfleet.strategies.base import Phase, Strategy

NAMES = sorted(registry.builtin("strategy"))
ROLES = {"trunk.w": "shared", "heads.a.w": "task:a", "heads.b.w": "task:b", "gate.w": "gate"}


@pytest.mark.parametrize("name", NAMES)
@given(total=st.integers(1, 10_000))
def test_phases_fill_the_steps_exactly(name: str, total: int) -> None:
    built: Any = registry.build("strategy", name)
    assert isinstance(built, Strategy)
    phases = built.phases(total)
    assert sum(phase.steps for phase in phases) == total
    assert all(phase.steps >= 1 and phase.name for phase in phases)
    assert phases == built.phases(total)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_trains_in_some_phase(name: str) -> None:
    phases = registry.build("strategy", name).phases(100)
    assert frozenset.intersection(*(phase.frozen(ROLES) for phase in phases)) == frozenset()


@pytest.mark.parametrize(
    ("trainable", "frozen"),
    [
        (("*",), set()),
        (("shared",), {"heads.a.w", "heads.b.w", "gate.w"}),
        (("task:*", "gate"), {"trunk.w"}),
        (("task:a",), {"trunk.w", "heads.b.w", "gate.w"}),
        ((), set(ROLES)),
    ],
)
def test_a_phase_freezes_the_roles_it_does_not_name(trainable: tuple[str, ...], frozen: set[str]) -> None:
    assert Phase(name="p", steps=1, trainable=trainable).frozen(ROLES) == frozen
