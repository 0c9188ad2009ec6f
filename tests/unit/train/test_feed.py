"""Which samples a rank sees: a global batch is the same for every world size, an epoch shows every sample once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtlfleet.datasets.base import ArraySamples
from mtlfleet.train.feed import Feed, sweep


def samples(size: int) -> ArraySamples:
    x = np.arange(size, dtype=np.float32)[:, None]
    return ArraySamples(x, {"t": x[:, 0]})


@given(size=st.integers(1, 60), batch=st.integers(1, 25), world=st.integers(1, 5), seed=st.integers(0, 9))
def test_ranks_share_the_global_batch_and_an_epoch_is_a_permutation(
    size: int, batch: int, world: int, seed: int
) -> None:
    data = samples(size)
    alone = Feed(data, ("t",), batch, seed, 0, 1)
    ranks = [Feed(data, ("t",), batch, seed, rank, world) for rank in range(world)]
    for epoch in range(2):
        seen: list[int] = []
        for step in range(epoch * alone.steps_per_epoch, (epoch + 1) * alone.steps_per_epoch):
            whole = alone.at(step)
            parts = [feed.at(step) for feed in ranks]
            together = [i for part in parts for i in part.batch.index.tolist()]
            assert together == whole.batch.index.tolist()
            assert {part.global_size for part in parts} == {len(whole.batch)}
            assert max(len(p.batch) for p in parts) - min(len(p.batch) for p in parts) <= 1
            seen += together
        assert sorted(seen) == list(range(size))


def test_the_order_depends_on_seed_and_epoch() -> None:
    data = samples(50)
    first = Feed(data, ("t",), 50, 1, 0, 1)
    orders = [first.at(0), first.at(1), Feed(data, ("t",), 50, 2, 0, 1).at(0), Feed(data, ("t",), 50, 1, 0, 1).at(0)]
    index = [part.batch.index.tolist() for part in orders]
    assert index[0] == index[3]
    assert index[0] != index[1]
    assert index[0] != index[2]


@given(size=st.integers(0, 40), world=st.integers(1, 4), step=st.integers(1, 15))
def test_a_sweep_shows_every_sample_to_exactly_one_rank(size: int, world: int, step: int) -> None:
    seen = [
        i for rank in range(world) for b in sweep(samples(size), ("t",), rank, world, step) for i in b.index.tolist()
    ]
    assert seen == list(range(size))
