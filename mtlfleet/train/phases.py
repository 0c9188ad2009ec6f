"""Which phase a step belongs to, and what trains in it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mtlfleet.strategies.base import Phase


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of a step (0-based); the last one from its start on.

    >>> phase_at((Phase(name="warm-up", steps=2), Phase(name="train", steps=8)), 2).name
    'train'
    """
    cursor = 0
    for phase in phases:
        cursor += phase.steps
        if step < cursor:
            return phase
    return phases[-1]


def enter(model: nn.Module, phase: Phase) -> None:
    """Let only the parameters train whose role the phase names; a model without ``roles()`` has shared ones only."""
    roles_of = getattr(model, "roles", None)
    roles = roles_of() if roles_of else {name: "shared" for name, _ in model.named_parameters()}
    frozen = phase.frozen(roles)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
