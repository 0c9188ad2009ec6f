"""Every registered method, and every preset, under the contracts that mtlfleet ships for plug-ins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mtlfleet import methods, registry, testing
from mtlfleet.methods.base import Decision, GramWeighting, LossWeighting, Weights

NAMES = [
    spelled
    for name, entry in registry.builtin("method").items()
    for spelled in (name, *(f"{name}@{preset}" for preset in entry.presets))
]
CHECKS = [check for name in NAMES for check in testing.method_checks(name)]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_contract(check: testing.Check) -> None:
    check()


def test_every_method_of_the_first_release_is_here() -> None:
    assert {
        *("sum", "linear", "stl", "uw", "dwa", "rlw", "si"),
        *("mgda", "pcgrad", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad"),
    } <= set(methods.names())


@dataclass
class Counter:
    """State that a careless method changes in place."""

    steps: int


class Drifting(LossWeighting[Counter]):
    """Breaks: mutates its state, so a replay differs."""

    def init(self, tasks):
        return Counter(0)

    def weigh(self, losses, state, at):
        state.steps += 1
        return Decision(Weights(torch.full_like(losses, float(state.steps))), state)


class Global(LossWeighting[None]):
    """Breaks: draws from torch's global generator."""

    def weigh(self, losses, state, at):
        return Decision(Weights(torch.rand(len(losses), dtype=torch.float64)), None)


class Dividing(GramWeighting[None]):
    """Breaks: divides by gradient norms without a guard, and weights by position."""

    def weigh(self, gram, losses, state, at):
        ramp = torch.arange(1, len(gram) + 1, dtype=torch.float64)
        return Decision(Weights(ramp / gram.diagonal().sqrt()), None)


class Uphill(GramWeighting[None]):
    """Breaks: ascends."""

    def weigh(self, gram, losses, state, at):
        return Decision(Weights(-torch.ones(len(gram), dtype=torch.float64)), None)


@pytest.mark.parametrize(
    ("broken", "contract"),
    [
        (Drifting, "state_is_value"),
        (Drifting, "sum_to_tasks"),
        (Global, "same_seed"),
        (Dividing, "finite"),
        (Dividing, "permutation"),
        (Dividing, "common_scaling"),
        (Uphill, "loss_scaling"),
        (Dividing, "keeps_agreement"),
        (Uphill, "one_task"),
        (Uphill, "non_conflict"),
        (Uphill, "sum_to_one"),
    ],
)
def test_a_contract_can_be_broken(broken: type, contract: str) -> None:
    check = {c.__name__: c for c in (*testing.ALWAYS, *testing.DECLARED.values())}[contract]
    subject = broken()
    if contract == "sum_to_tasks":
        subject.init = lambda tasks: Counter(4)
    with pytest.raises(AssertionError):
        check(subject)


def test_a_plugin_is_held_to_them(tmp_path: Path) -> None:
    source = '''
from dataclasses import dataclass
import torch
from mtlfleet.methods.base import Decision, LossWeighting, Weights, method

@method("tilt")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt(LossWeighting[None]):
    """Weights that grow with the loss.

    Properties  PROPERTIES
    """

    power: float = 1.0

    def weigh(self, losses, state, at):
        return Decision(Weights(losses**self.power), None)
'''
    (tmp_path / "tilt.py").write_text(source.replace("PROPERTIES", "permutation, common_scaling"))
    catalogue = registry.Catalogue(plugins=("./tilt.py",), base=tmp_path)
    checks = testing.method_checks("tilt", catalogue)
    assert {str(c) for c in checks} >= {"tilt-finite", "tilt-permutation", "tilt-common_scaling"}
    for check in checks:
        check()

    (tmp_path / "wrong.py").write_text(source.replace("PROPERTIES", "convexity").replace("tilt", "wrong"))
    with pytest.raises(ValueError, match="convexity"):
        testing.method_checks("wrong", registry.Catalogue(plugins=("./wrong.py",), base=tmp_path))
