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


def roles(model: nn.Module) -> dict[str, str]:
    """Each parameter's role; ``aux`` for one that the model does not declare, ``shared`` if it declares none at all."""
    roles_of = getattr(model, "roles", None)
    declared = roles_of() if roles_of else None
    names = [name for name, _ in model.named_parameters()]
    return {name: "shared" if declared is None else declared.get(name, "aux") for name in names}


def frozen(model: nn.Module) -> frozenset[str]:
    """The parameters that a model, as it was built, does not train: no phase wakes them."""
    return frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)


def enter(model: nn.Module, phase: Phase, never: frozenset[str] = frozenset()) -> None:
    """Let only the parameters train whose role the phase names, without those in ``never``."""
    resting = phase.frozen(roles(model)) | never
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in resting)
