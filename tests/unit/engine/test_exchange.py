"""Which collectives are chosen for which backend, and under which name; no device is needed to see that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mtlfleet.engine.exchange import Exchange


class Done:
    """A collective that is over."""

    def wait(self) -> None:
        """At once."""


def pretend(patch: pytest.MonkeyPatch, backend: str, names: tuple[str, ...]) -> list[str]:
    """A group of two ranks, this one the second, whose collectives do what those of equal ranks would; their names."""
    called: list[str] = []
    patch.setattr(dist, "is_initialized", lambda: True)
    patch.setattr(dist, "get_world_size", lambda _: 2)
    patch.setattr(dist, "get_rank", lambda _: 1)
    patch.setattr(dist, "get_backend", lambda _: backend)

    def scatter(out: Tensor, whole: Tensor, **_: Any) -> Done:
        called.append(names[0])
        out.copy_(2 * whole.chunk(2)[1])
        return Done()

    def gather(out: Tensor, mine: Tensor, **_: Any) -> Done:
        called.append(names[1])
        out.copy_(torch.cat([mine, mine]))
        return Done()

    def everyone(out: Tensor, sent: Tensor, **_: Any) -> Done:
        called.append("all_to_all_single")
        out.copy_(torch.cat([sent.flatten().chunk(2)[1]] * 2).view_as(out))
        return Done()

    for name in ("reduce_scatter_single", "reduce_scatter_tensor", "all_gather_single", "all_gather_into_tensor"):
        if hasattr(dist, name):
            patch.delattr(dist, name)
    patch.setattr(dist, names[0], scatter, raising=False)
    patch.setattr(dist, names[1], gather, raising=False)
    patch.setattr(dist, "all_to_all_single", everyone)
    return called


@pytest.mark.parametrize(
    "names",
    [("reduce_scatter_single", "all_gather_single"), ("reduce_scatter_tensor", "all_gather_into_tensor")],
    ids=["torch 2.13", "older torch"],
)
@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_nccl_reduces_to_shards_and_gloo_goes_all_to_all(
    backend: str, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = pretend(monkeypatch, backend, names)
    exchange = Exchange()
    large = torch.arange(200_000, dtype=torch.float32)
    assert torch.equal(exchange.reduce(large.clone()), 2 * large[100_000:])
    assert exchange.bytes_sent == 100_000 * 4  # half of the vector leaves this rank, by either way
    assert torch.equal(exchange.gather(large), torch.cat([large, large]))
    assert called == [names[0] if backend == "nccl" else "all_to_all_single", names[1]]


def test_small_messages_are_spread_on_gloo_only(monkeypatch: pytest.MonkeyPatch) -> None:
    called = pretend(monkeypatch, "gloo", ("reduce_scatter_single", "all_gather_single"))
    assert torch.equal(Exchange().gather(torch.ones(3)), torch.ones(6))
    assert called == ["all_to_all_single"]
    called.clear()
    monkeypatch.setattr(dist, "get_backend", lambda _: "nccl")
    assert torch.equal(Exchange().gather(torch.ones(3)), torch.ones(6))
    assert called == ["all_gather_single"]
    assert Exchange().device == torch.device("cuda")  # what is on the CPU is moved there for a sum
