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
from mtlfleet.store import final_values, open_store
from mtlfleet.train import Communicator, Site, TrialRun

# Conventions under which a method keeps state in shards, or sums over ranks, when it otherwise does not.
SHARDED = ("db_mtl@libmtl", "graddrop@kurin", "moco@libmtl", "modo@two_batches")


def reported(root: Path, world: int, names: list[str]) -> dict[tuple[str, int, str, str], float]:
    """What the methods tell of themselves."""
    called = {rank_trials.trial(name, world).id: name for name in names}
    query = "select trial_id, step, metric, task, value from step_metrics where metric <> 'loss' and task <> '*'"
    return {
        (called[row["trial_id"]], row["step"], row["metric"], row["task"]): row["value"]
        for row in open_store(root).sql(query).to_pylist()
    }


def test_two_ranks_equal_one_for_every_method(tmp_path: Path) -> None:
    names = [*methods.names(), *SHARDED, "two_batches"]
    one = rank_trials.train(0, 1, names, str(tmp_path / "one"))
    two = crew(2, rank_trials.train, names, str(tmp_path / "two"))
    for name in names:
        state, score, weights, start = one[name]
        assert state == "done", name
        for rank in range(2):
            assert two[rank][name][0] == "done"
            assert two[rank][name][1] == pytest.approx(score, abs=1e-6), name
            for tensor, mine in weights.items():
                # A bias that crosses zero keeps the rounding of where it came from: that is what it is held to.
                size = max(float(mine.norm()), float(start[tensor].norm()))
                apart = float((two[rank][name][2][tensor] - mine).norm()) / size
                assert apart < 1e-6, (name, tensor, apart)
        assert all(torch.equal(two[0][name][2][n], two[1][name][2][n]) for n in weights), name
        rows = [
            final_values(tmp_path / where, "ranks", rank_trials.trial(name, world).id, split="test")
            for where, world in (("one", 1), ("two", 2))
        ]
        assert len(rows[0]) == len(rank_trials.trial(name).tasks)
        for mine, other in zip(*rows, strict=True):
            assert mine[:2] == other[:2]
            assert mine.value == pytest.approx(other.value, rel=1e-5)
    told, other = reported(tmp_path / "one", 1, names), reported(tmp_path / "two", 2, names)
    assert {metric for _, _, metric, _ in told} == {"weight", "balance", "au_share", "au_dominant"}
    assert other == pytest.approx(told, abs=1e-6)


def test_two_ranks_resume_bit_equal(tmp_path: Path) -> None:
    """State that lives in shards comes back to the rank it belongs to; draws are those of the undisturbed run."""
    names = ["adatask", "graddrop", "druw", "moco", "excess_mtl", "db_mtl@libmtl", "sdmgrad", "auto_lambda"]
    assert {*names} >= {name for name in methods.names() if methods.build(name).shards and name != "db_mtl"}
    straight = crew(2, rank_trials.interrupted, names, str(tmp_path / "straight"), 0)
    resumed = crew(2, rank_trials.interrupted, names, str(tmp_path / "resumed"), 3)
    for rank in range(2):
        for name in names:
            last, again = straight[rank][name], resumed[rank][name]
            assert all(torch.equal(last[n], again[n]) for n in last), (name, rank)


def test_two_ranks_equal_one_with_extra_losses(tmp_path: Path) -> None:
    """One before and one after the weighting, on unequal parts of each batch; either one matters for where it ends."""
    one, none, early = (
        rank_trials.with_extras(0, 1, str(tmp_path / name), scales)
        for name, scales in (("one", (2.0, 3.0)), ("none", (0.0, 0.0)), ("early", (2.0, 0.0)))
    )
    trunk = next(n for n in one if n.startswith("trunk") and n.endswith("weight"))
    for other in (none, early):
        assert float((one[trunk] - other[trunk]).norm() / one[trunk].norm()) > 1e-3
    two = crew(2, rank_trials.with_extras, str(tmp_path / "two"), (2.0, 3.0))
    for name, mine in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        torch.testing.assert_close(two[0][name], mine, rtol=1e-6, atol=1e-6, msg=name)


def test_a_method_with_moments_of_its_own_refuses_another_optimizer(tmp_path: Path) -> None:
    site = Site(tmp_path, "ranks")
    for recipe, said in (({"optimizer": "adam"}, "adam"), ({"momentum": 0.9}, "momentum 0.9")):
        with pytest.raises(OutOfDomain, match=said):
            TrialRun(rank_trials.trial("adatask", **recipe), site, Communicator()).begin()
