"""Every preset makes the updates of one rank on four. The methods themselves are held to a dense oracle on 1, 2 and 4
ranks in test_engine_ranks; a preset may keep state in shards, sum over ranks or draw where its method does not."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

import cases
from crew import crew

from mtlfleet import registry

# A loop of gradient steps so long that it does not settle: it multiplies a rounding with every step.
UNSETTLED = {"sdmgrad@libmtl": 1e-4}
PRESETS = [f"{name}@{preset}" for name in cases.names() for preset in registry.find("method", name).presets]


def whole(update: dict[str, Tensor]) -> Tensor:
    return torch.cat([update[name].flatten() for name in sorted(update)])


def test_an_update_does_not_depend_on_the_number_of_ranks() -> None:
    alone, ranks = cases.by_engine(0, 1, PRESETS), crew(4, cases.by_engine, PRESETS)
    for name, steps in alone.items():
        for step, update in enumerate(steps):
            expected, found = whole(update), [whole(ranks[rank][name][step]) for rank in range(4)]
            assert float((found[0] - expected).norm() / expected.norm()) < UNSETTLED.get(name, 1e-6), (name, step)
            assert all(torch.equal(found[0], other) for other in found), (name, step)  # replicas never drift apart
