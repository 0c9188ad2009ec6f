"""All heads in one pass: the same bits as a pass for each, or None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlfleet.engine.heads import Headed, together


class Times(torch.autograd.Function):
    """a * b, with an argument between them that has no gradient."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, _: int, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        return gradient * b, None, gradient * a


def start(loss: Tensor) -> Tensor:
    return torch.full_like(loss, 0.5)


def one_by_one(losses: Mapping[str, Tensor], z: Tensor, own: Mapping[str, Sequence[Tensor]]) -> dict[str, Headed]:
    found = {}
    for task, loss in losses.items():
        dz, *mine = torch.autograd.grad(loss, [z, *own[task]], start(loss), retain_graph=True, allow_unused=True)
        found[task] = dz, mine
    return found


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def made() -> tuple[Tensor, dict[str, Tensor], dict[str, list[nn.Parameter]]]:
    torch.manual_seed(0)
    z = nn.Sequential(nn.Linear(5, 6), nn.Tanh())(torch.randn(7, 5))
    heads = [nn.Linear(6, 2) for _ in range(4)]
    scale = torch.ones(6, requires_grad=True)
    chain = heads[1](z)
    for _ in range(40):  # as many ways as 2^40
        chain = torch.tanh(chain + chain.sin())
    losses = {
        "plain": heads[0](z).square().mean(),
        "many ways": chain.sum(),
        "several doors": Times.apply(z, 3, scale).sum() + heads[2](z).exp().mean() + (z * z.sum()).sum(),  # type: ignore[no-untyped-call]
        "straight": z.sum(),
        "elsewhere": heads[3].bias.sum(),
    }
    own = {task: list(heads[i].parameters()) for task, i in (("plain", 0), ("many ways", 1), ("several doors", 2))}
    return z, losses, {"straight": [], "elsewhere": list(heads[3].parameters()), **own}


def test_every_head_gets_the_bits_of_a_pass_of_its_own() -> None:
    z, losses, own = made()
    expected, found = one_by_one(losses, z, own), together(losses, z, own, start)
    assert found is not None and list(found) == list(losses)
    for task, (dz, mine) in expected.items():
        assert same(dz, found[task][0]), task
        assert all(same(a, b) for a, b in zip(mine, found[task][1], strict=True)), task
    assert found["elsewhere"][0] is None


def test_it_leaves_no_hook_behind() -> None:
    z, losses, own = made()
    first, second = together(losses, z, own, start), together(losses, z, own, start)
    assert first is not None and second is not None
    assert all(same(first[task][0], second[task][0]) for task in losses)


@pytest.mark.parametrize("why", ["an operation of two tasks", "one loss twice", "a way past z", "a listener", "alone"])
def test_tasks_that_cannot_be_told_apart_are_left_alone(why: str) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    z = (2.0 * x).tanh()
    both = z.exp()
    losses = {"a": z.sum(), "b": z.square().sum()}
    if why == "an operation of two tasks":
        losses = {"a": both.sum(), "b": both.mean()}
    elif why == "one loss twice":
        losses["b"] = losses["a"]
    elif why == "a way past z":
        rest = (2.0 * x).unbind(1)
        z, losses = rest[0], {"a": rest[0].sum(), "b": (rest[0] * rest[1]).sum()}
    elif why == "a listener":
        z.register_hook(lambda gradient: 2.0 * gradient)
    elif why == "alone":
        losses = {"a": losses["a"]}
    assert together(losses, z, {"a": [], "b": []}, start) is None
