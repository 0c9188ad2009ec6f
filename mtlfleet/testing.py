"""The contracts that every method keeps, shipped so that a plug-in can be held to them.

In a test file of your own::

    import pytest
    from mtlfleet.registry import Catalogue
    from mtlfleet.testing import method_checks

    @pytest.mark.parametrize("check", method_checks("tilt", Catalogue(plugins=("./tilt.py",))), ids=str)
    def test_tilt(check):
        check()

Some checks run for every method; the others are named under ``Properties`` in the method's docstring, and naming one
runs it. A check raises AssertionError with what it saw.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mtlfleet.engine.gradients import Losses, Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods.base import Decision, GramWeighting, LossWeighting, Method
from mtlfleet.registry import Catalogue

HEADINGS = ("Math", "Shapes", "Source", "Departures", "Properties")
PARAMETERS = 40
TIGHT = 1e-8

AnyMethod: TypeAlias = "Method[Any]"


def sections(cls: type) -> dict[str, str]:
    """The fixed headings of a method's docstring with their text, unwrapped."""
    found: dict[str, str] = {}
    current = ""
    for line in (cls.__doc__ or "").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word in HEADINGS and word not in found:
            current, found[word] = word, rest.strip()
        elif not line.strip():
            current = ""
        elif current:
            found[current] = f"{found[current]} {line.strip()}"
    return found


def properties(cls: type) -> tuple[str, ...]:
    """The contract tests that a method's docstring declares under ``Properties``.

    >>> from mtlfleet.methods.gram.upgrad import UPGrad
    >>> properties(UPGrad)
    ('permutation', 'common_scaling', 'non_conflict', 'keeps_agreement')
    """
    words = re.split(r"[,\s]+", sections(cls).get("Properties", "").rstrip("."))
    return tuple(word for word in words if word and word != "none")


@dataclass(frozen=True)
class Case:
    """Task gradients [K, P] built to have one trait, with positive losses [K]."""

    trait: str
    jacobian: Tensor
    losses: Tensor

    @property
    def tasks(self) -> int:
        return len(self.losses)


def case(trait: str, tasks: int, seed: int = 0) -> Case:
    """Float64 gradients that are ``plain`` (independent), ``agreeing`` (no conflict), ``stationary`` (a convex
    combination vanishes), ``dependent`` (rank 2), ``parallel``, ``opposed`` (one row is another's negative),
    ``zero_row`` or ``zero``.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, PARAMETERS, generator=generator, dtype=torch.float64)
    mix = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1
    losses = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.5
    match trait:
        case "agreeing":
            rows = rows.abs()
        case "stationary":
            rows[-1] = -(mix[:-1] @ rows[:-1]) / mix[-1]
        case "dependent":
            rows = torch.randn(tasks, 2, generator=generator, dtype=torch.float64) @ rows[:2] if tasks > 2 else rows
        case "parallel":
            rows = mix[:, None] * rows[:1]
        case "opposed":
            rows[-1] = -rows[0]
        case "zero_row":
            rows[0] = 0.0
        case "zero":
            rows = torch.zeros_like(rows)
    return Case(trait, rows, losses)


TRAITS = ("plain", "agreeing", "stationary", "dependent", "parallel", "opposed", "zero_row", "zero")


def advance(method: AnyMethod, case: Case, state: Any, at: Step) -> tuple[Tensor, Any, str]:
    """One step: the shared gradient [P] that the method writes, its next state, its word."""
    grads = DenseGradients(case.jacobian, case.losses)
    state, status = method.step(grads, state, at)
    return grads.direction(), state, status


def direction(method: AnyMethod, case: Case, seed: int = 0) -> Tensor:
    """The shared gradient [P] of the first step."""
    return advance(method, case, method.init(case.tasks), Step(seed=seed))[0]


def weights(method: AnyMethod, case: Case, seed: int = 0) -> Tensor | None:
    """The weights [K] of the first step; None for methods that are no weighting."""
    grads, state, at = DenseGradients(case.jacobian, case.losses), method.init(case.tasks), Step(seed=seed)
    decision: Decision
    if isinstance(method, LossWeighting):
        decision = method.weigh(grads.losses, state, at)
    elif isinstance(method, GramWeighting):
        decision = method.weigh(grads.gram(), Losses(grads.losses), state, at)
    else:
        return None
    return decision.weights


def sizes(method: AnyMethod) -> tuple[int, ...]:
    """How many tasks to try."""
    return (1,) if method.single_task else (1, 2, 3, 7)


def _equal_values(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> bool:
    """Packed states, bit for bit."""
    if left is None or right is None:
        return left is right
    return left.keys() == right.keys() and all(
        torch.equal(v, right[k]) and v.dtype == right[k].dtype if isinstance(v, Tensor) else v == right[k]
        for k, v in left.items()
    )


def _run(method: AnyMethod, state: Any, start: int, stop: int, tasks: int) -> tuple[list[Tensor], Any]:
    """Steps start..stop on gradients keyed by the step, two steps an epoch."""
    written = []
    for number in range(start, stop):
        now = case("plain", tasks, seed=number)
        found, state, _ = advance(method, now, state, Step(number, number // 2, seed=11))
        written.append(found)
    return written, state


# Contracts of every method.


def finite(method: AnyMethod) -> None:
    """A finite update [P], and finite float64 weights [K], whatever the gradients' trait; the inputs stay untouched."""
    for tasks in sizes(method):
        for trait in TRAITS:
            given, kept = case(trait, tasks), case(trait, tasks)
            found, _, status = advance(method, given, method.init(tasks), Step())
            assert found.shape == (PARAMETERS,), f"{trait}, {tasks} tasks: update has shape {tuple(found.shape)}"
            assert torch.isfinite(found).all(), f"{trait}, {tasks} tasks: update {found}"
            assert isinstance(status, str), f"{trait}, {tasks} tasks: status {status!r} is no word"
            assert status, f"{trait}, {tasks} tasks: empty status"
            chosen = weights(method, given)
            if chosen is not None:
                assert chosen.shape == (tasks,), f"{trait}: weights have shape {tuple(chosen.shape)}"
                assert chosen.dtype == torch.float64, f"{trait}: weights are {chosen.dtype}"
                assert torch.isfinite(chosen).all(), f"{trait}, {tasks} tasks: weights {chosen}"
            assert torch.equal(given.jacobian, kept.jacobian), f"{trait}: the gradients were changed in place"
            assert torch.equal(given.losses, kept.losses), f"{trait}: the losses were changed in place"


def one_task(method: AnyMethod) -> None:
    """One task: a positive multiple of its gradient, and no update from a zero gradient."""
    for seed in range(3):
        given = case("plain", 1, seed)
        found, row = direction(method, given), given.jacobian[0]
        factor = float(found @ row / (row @ row))
        assert factor > 0, f"the update is {factor} times the only gradient"
        assert torch.allclose(found, factor * row, rtol=TIGHT), f"update {found} is no multiple of {row}"
    assert not direction(method, case("zero", 1)).any(), "a zero gradient moved the parameters"


def scales(method: AnyMethod) -> None:
    """Gradients and losses of 1e-10 to 1e10, and norm ratios of 1e4, give finite updates, not zero."""
    for tasks in sizes(method):
        plain = case("plain", tasks)
        ramp = torch.logspace(0, 4, tasks, dtype=torch.float64)[:, None]
        for size in (1e-10, 1e-5, 1e5, 1e10):
            for rows in (plain.jacobian * size, plain.jacobian * ramp * size):
                found = direction(method, Case("scaled", rows, plain.losses * size))
                assert torch.isfinite(found).all(), f"size {size}, {tasks} tasks: update {found}"
                assert found.any(), f"size {size}, {tasks} tasks: no update from independent gradients"


def round_trip(method: AnyMethod) -> None:
    """A state packed, saved, loaded with ``weights_only`` and unpacked mid-run continues bit-equal."""
    for tasks in sizes(method):
        _, state = _run(method, method.init(tasks), 0, 5, tasks)
        buffer = io.BytesIO()
        torch.save(method.pack(state), buffer)
        buffer.seek(0)
        restored = method.unpack(torch.load(buffer, weights_only=True), tasks)
        assert _equal_values(method.pack(state), method.pack(restored)), f"{tasks} tasks: the state changed on its way"
        through, last = _run(method, state, 5, 9, tasks)
        resumed, other = _run(method, restored, 5, 9, tasks)
        assert all(map(torch.equal, through, resumed)), f"{tasks} tasks: updates differ after a resume"
        assert _equal_values(method.pack(last), method.pack(other)), f"{tasks} tasks: states differ after a resume"


def same_seed(method: AnyMethod) -> None:
    """The same seed gives the same updates, whatever torch's global generator is at."""
    for tasks in sizes(method):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            first, _ = _run(method, method.init(tasks), 0, 4, tasks)
            torch.manual_seed(2)
            second, _ = _run(method, method.init(tasks), 0, 4, tasks)
        assert all(map(torch.equal, first, second)), f"{tasks} tasks: two runs with one seed differ"


def state_is_value(method: AnyMethod) -> None:
    """A step leaves the state it was given as it was: the same state twice gives the same answer."""
    for tasks in sizes(method):
        _, state = _run(method, method.init(tasks), 0, 3, tasks)
        first, _ = _run(method, state, 3, 4, tasks)
        second, _ = _run(method, state, 3, 4, tasks)
        assert torch.equal(first[0], second[0]), f"{tasks} tasks: replaying a step from its state gave another update"


# Contracts a method may declare.


def permutation(method: AnyMethod) -> None:
    """Tasks in another order: the same update."""
    for tasks in sizes(method):
        order = torch.randperm(tasks, generator=torch.Generator().manual_seed(tasks))
        plain = case("plain", tasks)
        moved = Case("permuted", plain.jacobian[order], plain.losses[order])
        _close(direction(method, plain), direction(method, moved), f"{tasks} tasks in another order")


def positive_scaling(method: AnyMethod) -> None:
    """Each task's gradient times a positive number of its own: the same direction."""
    for tasks in sizes(method):
        plain = case("plain", tasks)
        stretched = Case("stretched", plain.jacobian * torch.logspace(-2, 2, tasks)[:, None], plain.losses)
        first, second = direction(method, plain), direction(method, stretched)
        _close(first / first.norm(), second / second.norm(), f"{tasks} tasks stretched one by one")


def common_scaling(method: AnyMethod) -> None:
    """All gradients times one number: the update times that number."""
    for tasks in sizes(method):
        plain = case("plain", tasks)
        for size in (1e-4, 1e4):
            scaled = Case("scaled", plain.jacobian * size, plain.losses)
            _close(direction(method, plain), direction(method, scaled) / size, f"{tasks} tasks times {size}")


def loss_scaling(method: AnyMethod) -> None:
    """Each task's loss, and with it its gradient, times a positive number of its own: the same update."""
    for tasks in sizes(method):
        plain = case("plain", tasks)
        units = torch.logspace(-3, 3, tasks, dtype=torch.float64)
        other = Case("other units", plain.jacobian * units[:, None], plain.losses * units)
        _close(direction(method, plain), direction(method, other), f"{tasks} tasks in other units")


def non_conflict(method: AnyMethod) -> None:
    """No task's loss rises to first order: every gradient has a non-negative product with the update.

    Where the method reports ``stationary...``, its terms cancel, and what is left may point anywhere by 1e-6 of them.
    """
    for tasks in sizes(method):
        for trait in ("plain", "agreeing", "dependent", "opposed", "zero_row"):
            for seed in range(5):
                given = case(trait, tasks, seed)
                found, _, status = advance(method, given, method.init(tasks), Step())
                norms, chosen = given.jacobian.norm(dim=1), weights(method, given)
                slack = TIGHT * float(norms.max())
                if status.startswith("stationary") and chosen is not None:
                    slack += 1e-6 * float(chosen.abs() @ norms)
                floor = -slack * norms
                products = given.jacobian @ found
                assert (products >= floor).all(), f"{trait}, {tasks} tasks, seed {seed}: products {products.tolist()}"


def keeps_agreement(method: AnyMethod) -> None:
    """Gradients that do not conflict are added with equal weights."""
    for tasks in sizes(method):
        given = case("agreeing", tasks)
        found, total = direction(method, given), given.jacobian.sum(0)
        _close(found / found.norm(), total / total.norm(), f"{tasks} agreeing tasks")


def sum_to_tasks(method: AnyMethod) -> None:
    """Weights sum to the number of tasks."""
    _sums(method, per_task=1.0)


def sum_to_one(method: AnyMethod) -> None:
    """Weights sum to one."""
    _sums(method, total=1.0)


def _sums(method: AnyMethod, *, total: float = 0.0, per_task: float = 0.0) -> None:
    for tasks in sizes(method):
        chosen = weights(method, case("plain", tasks))
        assert chosen is not None, "weights that sum to a number need a weighting method"
        assert abs(float(chosen.sum()) - total - per_task * tasks) <= TIGHT * tasks, (
            f"{tasks} tasks: weights {chosen.tolist()}"
        )


def _close(first: Tensor, second: Tensor, what: str) -> None:
    gap = float((first - second).norm() / first.norm().clamp_min(torch.finfo(torch.float64).tiny))
    assert gap <= TIGHT, f"{what}: the update differs by {gap:.1e} of its norm"


ALWAYS: tuple[Callable[[AnyMethod], None], ...] = (finite, one_task, scales, round_trip, same_seed, state_is_value)
DECLARED: Mapping[str, Callable[[AnyMethod], None]] = {
    check.__name__: check
    for check in (
        permutation,
        positive_scaling,
        common_scaling,
        loss_scaling,
        non_conflict,
        keeps_agreement,
        sum_to_tasks,
        sum_to_one,
    )
}


@dataclass(frozen=True)
class Check:
    """One contract of one method; call it to test."""

    name: str
    contract: Callable[[AnyMethod], None]
    method: AnyMethod

    def __call__(self) -> None:
        self.contract(self.method)

    def __str__(self) -> str:
        return f"{self.name}-{self.contract.__name__}"


def method_checks(name: str, catalogue: Catalogue | None = None) -> tuple[Check, ...]:
    """All contracts of the method ``name``, or of ``name@preset`` (which may lose declared properties: none is run).

    Raises UnknownName for an unknown method, ValueError for a declared property that is no contract.
    """
    catalogue = catalogue or Catalogue()
    built: AnyMethod = catalogue.load("method", name)(**catalogue.parameters("method", name, {}))
    declared = () if "@" in name else properties(type(built))
    unknown = sorted(set(declared) - set(DECLARED))
    if unknown:
        raise ValueError(f"{name}: no contract is called {', '.join(unknown)}; known: {', '.join(DECLARED)}")
    return tuple(Check(name, contract, built) for contract in (*ALWAYS, *(DECLARED[p] for p in declared)))
