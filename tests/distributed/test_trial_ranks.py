"""A trial on two ranks is the trial on one: same global batches, same weights, same metrics."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import rank_trials
from crew import crew

from mtlfleet import methods
from mtlfleet.methods.base import OutOfDomain
from mtlfleet.store import final_values
from mtlfleet.train import Communicator, Site, TrialRun

# Weights several times larger than one at the start: steps are longer, and so is what float32 sums differ by.
COARSER = {"druw": 3e-6, "rruw": 3e-6}


def test_two_ranks_equal_one_for_every_method(tmp_path: Path) -> None:
    names = [*methods.names(), "two_batches"]
    one = rank_trials.train(0, 1, names, str(tmp_path / "one"))
    two = crew(2, rank_trials.train, names, str(tmp_path / "two"))
    for name in names:
        state, score, weights = one[name]
        assert state == "done", name
        for rank in range(2):
            assert two[rank][name][0] == "done"
            assert two[rank][name][1] == pytest.approx(score, abs=1e-6), name
            for tensor, mine in weights.items():
                apart = float((two[rank][name][2][tensor] - mine).norm() / mine.norm())
                assert apart < COARSER.get(name, 1e-6), (name, tensor, apart)
        assert all(torch.equal(two[0][name][2][n], two[1][name][2][n]) for n in weights), name
        rows = [
            final_values(tmp_path / where, "ranks", rank_trials.trial(name, world).id, split="test")
            for where, world in (("one", 1), ("two", 2))
        ]
        assert len(rows[0]) == len(rank_trials.trial(name).tasks)
        for mine, other in zip(*rows, strict=True):
            assert mine[:2] == other[:2]
            assert mine.value == pytest.approx(other.value, rel=1e-5)


@pytest.mark.parametrize("method", ["adatask", "graddrop", "druw"])
def test_two_ranks_resume_bit_equal(method: str, tmp_path: Path) -> None:
    """State that lives in shards comes back to the rank it belongs to; draws are those of the undisturbed run."""
    straight = crew(2, rank_trials.interrupted, method, str(tmp_path / "straight"), 0)
    resumed = crew(2, rank_trials.interrupted, method, str(tmp_path / "resumed"), 3)
    for rank in range(2):
        assert all(torch.equal(straight[rank][n], resumed[rank][n]) for n in straight[rank]), rank


def test_a_method_with_moments_of_its_own_refuses_another_optimizer(tmp_path: Path) -> None:
    site = Site(tmp_path, "ranks")
    for recipe, said in (({"optimizer": "adam"}, "adam"), ({"momentum": 0.9}, "momentum 0.9")):
        with pytest.raises(OutOfDomain, match=said):
            TrialRun(rank_trials.trial("adatask", **recipe), site, Communicator()).begin()
