"""What a method promises: eight contracts that every method keeps, and those it may declare.

A contract is a function of a method that raises AssertionError with what it saw.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mtlfleet.engine.gradients import Step
from mtlfleet.methods.base import OutOfDomain
from mtlfleet.testing.cases import PARAMETERS, TRAITS, AnyMethod, Case, advance, case, direction, sizes, weights

TIGHT = 1e-8


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


def odd_losses(method: AnyMethod) -> None:
    """Losses of zero and below: a finite update, or an OutOfDomain that says what to do."""
    for tasks in sizes(method):
        for value in (0.0, -1.0):
            given = case("plain", tasks)
            losses = given.losses.clone()
            losses[0] = value
            try:
                found, _, _ = advance(method, Case("odd losses", given.jacobian, losses), method.init(tasks), Step())
            except OutOfDomain as refusal:
                assert refusal.help, f"a loss of {value} is refused without a way out: {refusal.message}"
                continue
            assert torch.isfinite(found).all(), f"a loss of {value} among {tasks}: update {found}"


def one_task(method: AnyMethod) -> None:
    """One task: a positive multiple of its gradient, and no update from a zero gradient. A method that makes the update
    itself may scale coordinates: there, downhill."""
    for seed in range(3):
        given = case("plain", 1, seed)
        found, row = direction(method, given, apart=False), given.jacobian[0]
        factor = float(found @ row / (row @ row))
        assert factor > 0, f"the update is {factor} times the only gradient"
        assert method.owns_update or torch.allclose(found, factor * row, rtol=TIGHT), (
            f"update {found} is no multiple of {row}"
        )
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


def sums_as_said(method: AnyMethod) -> None:
    """Weights add up to what ``weight_sum`` says: the number of tasks, one, anything, or there are none."""
    said = method.weight_sum
    assert said in ("tasks", "one", "free", "none"), f"weight_sum is tasks, one, free or none; found {said!r}"
    for tasks in sizes(method):
        for trait in ("plain", "agreeing", "dependent"):
            chosen = weights(method, case(trait, tasks))
            assert said != "none" or chosen is None, f"weight_sum is none, but there are weights: {chosen}"
            if said in ("tasks", "one"):
                assert chosen is not None, f"weight_sum is {said}, but there are no weights"
                wanted = tasks if said == "tasks" else 1
                gap = abs(float(chosen.sum()) - wanted)
                assert gap <= TIGHT * tasks, f"{trait}, {tasks} tasks: weights {chosen.tolist()}, sum {wanted} was said"


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


ALWAYS: tuple[Callable[[AnyMethod], None], ...] = (
    finite,
    odd_losses,
    one_task,
    scales,
    round_trip,
    same_seed,
    state_is_value,
    sums_as_said,
)
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
