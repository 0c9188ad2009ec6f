"""A trial's body: resumed runs equal undisturbed ones, validation chooses, divergence is an outcome."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import short_trials as trials

from mtlfleet.plan.trial import Trial
from mtlfleet.store import digest, open_store, read_claim, trial_state, write_document
from mtlfleet.train import Site, TrialRun

STATEFUL = ["uw", "dwa", "nash_mtl", "rlw", "pcgrad"]


def results(root: Path | str, wanted: Trial) -> str:
    """The digest of a store that holds one trial."""
    row = {
        "trial_id": wanted.id,
        "phase": wanted.phase,
        "method": wanted.method.name,
        "method_use": wanted.method.use,
        "dataset": wanted.dataset.name,
        "architecture": wanted.architecture.name,
        "task": wanted.task,
        "tasks": list(wanted.tasks),
        "seed": wanted.seed,
        "config_index": 0,
        "label": wanted.label,
        "params": {},
        "config": {},
        "config_sha256": wanted.key,
        "world_size": 1,
        "steps": 24,
    }
    write_document(root, "study", "trials", [row])
    return digest(open_store(root), "study")


@pytest.mark.parametrize("method", STATEFUL)
def test_a_run_that_dies_at_any_checkpoint_resumes_to_the_same_rows(method: str, tmp_path: Path) -> None:
    wanted = trials.trial(method, checkpoint_every=4)
    trials.finish(trials.start(tmp_path / "whole", wanted))
    expected = results(tmp_path / "whole", wanted)

    broken = tmp_path / "broken"
    for stretches in (1, 2, 1):
        run = trials.start(broken, wanted)
        for _ in range(stretches):
            run.advance(seconds=0.0)
        assert run.writer is not None
        run.writer.abandon()  # what a kill leaves: rows since the last flush are lost
    assert read_claim(broken, "study", wanted.id, 3)["restored_step"] >= 4
    trials.finish(trials.start(broken, wanted))
    assert results(broken, wanted) == expected


def test_a_run_in_a_bucket_resumes_there_to_the_rows_of_a_folder(s3_root: str, tmp_path: Path) -> None:
    wanted = trials.trial("famo", checkpoint_every=4)
    trials.finish(trials.start(tmp_path, wanted))
    run = trials.start(s3_root, wanted)
    run.advance(seconds=0.0)
    assert run.writer is not None and run.position.step >= 4
    run.writer.abandon()
    again = trials.start(s3_root, wanted)
    assert again.position.step >= 4 and read_claim(s3_root, "study", wanted.id, 2)["restored_step"] >= 4
    trials.finish(again)
    assert results(s3_root, wanted) == results(tmp_path, wanted)


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_checkpoint_costs_work_not_the_trial(tmp_path: Path, damage: str) -> None:
    wanted = trials.trial(checkpoint_every=4)
    trials.finish(trials.start(tmp_path / "whole", wanted))
    run = trials.start(tmp_path / "broken", wanted)
    while run.position.step < 12:
        run.advance(seconds=0.0)
    assert run.writer is not None
    run.writer.flush()
    run.writer.abandon()
    newest = sorted((tmp_path / "broken").glob("checkpoints/*/*/step=*"))[-1]
    if damage == "cut":
        (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:100])
    else:  # one bit of the last weight: safetensors reads it without a word
        weights = bytearray((newest / "model.safetensors").read_bytes())
        weights[-2] ^= 1
        (newest / "model.safetensors").write_bytes(weights)
    again = trials.start(tmp_path / "broken", wanted)
    assert 0 < again.position.step < 12
    trials.finish(again)
    assert results(tmp_path / "broken", wanted) == results(tmp_path / "whole", wanted)


def test_pausing_leaves_a_checkpoint_of_the_moment(tmp_path: Path) -> None:
    wanted = trials.trial()
    run = trials.start(tmp_path, wanted)
    run.advance(seconds=0.0)
    at = run.position.step
    assert 0 < at < 24
    run.pause()
    assert trial_state(tmp_path, "study", wanted.id) == "interrupted"
    assert trials.start(tmp_path, wanted).position.step == at


def rows(root: Path, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_store(root).sql(query).to_pylist()
    return found


def test_the_checkpoint_is_chosen_on_validation_and_test_is_read_once(tmp_path: Path) -> None:
    wanted = trials.trial(lr=0.2, optimizer="sgd")
    trials.finish(trials.start(tmp_path, wanted))
    results(tmp_path, wanted)
    curve = rows(
        tmp_path,
        "select step, avg(value) v from metrics where split='val' and metric='rmse' and not final group by step",
    )
    chosen = rows(tmp_path, "select value from metrics where metric='selected_step'")[0]["value"]
    assert chosen == min(curve, key=lambda row: (row["v"], row["step"]))["step"]
    final = rows(tmp_path, "select avg(value) v from metrics where split='val' and metric='rmse' and final")[0]["v"]
    assert final == pytest.approx(min(row["v"] for row in curve), rel=1e-12)
    read = rows(tmp_path, "select task, count(*) n from metrics where split='test' group by task")
    assert sorted((row["task"], row["n"]) for row in read) == [("task_0", 1), ("task_1", 1)]


def test_what_a_method_reports_is_written_beside_the_losses(tmp_path: Path) -> None:
    for name in ("moco", "modo"):
        trials.finish(trials.start(tmp_path, trials.trial(name, steps=6, budget="steps")))
    found = rows(tmp_path, "select metric, task, count(*) n, sum(value) v from step_metrics group by all order by all")
    assert [(row["metric"], row["task"], row["n"]) for row in found] == [
        ("loss", "task_0", 4),
        ("loss", "task_1", 4),
        ("weight", "task_0", 2),
        ("weight", "task_1", 2),
    ]
    assert sum(row["v"] for row in found if row["metric"] == "weight") == pytest.approx(2)


def test_tuning_never_loads_the_test_split(tmp_path: Path) -> None:
    wanted = trials.trial(phase="tune")
    run = trials.start(tmp_path, wanted)
    assert {split.value for split in run.parts.splits} == {"train", "val"}
    trials.finish(run)
    assert wanted.key != trials.trial().key
    assert not list((tmp_path).glob("checkpoints/*/*/step=*")), "a finished trial leaves no checkpoint behind"


NAN = '''\
from dataclasses import dataclass

import torch

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method


@method("nanny")
@dataclass(frozen=True, kw_only=True)
class Nanny(LossWeighting[None]):
    """Non-finite weights from the sixth step on."""

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:
        bad = torch.nan if at.number >= 5 else 1.0
        return Decision(Weights(torch.full_like(losses, bad)), state)
'''


def test_divergence_is_an_outcome_and_skipped_steps_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "nanny.py").write_text(NAN)
    site = Site(tmp_path / "store", "study", plugins=("./nanny.py",), base=tmp_path)
    wanted = trials.trial("nanny", site=site, max_skips=3)
    run: TrialRun = trials.start(tmp_path / "store", wanted, site)
    progress = trials.finish(run)
    assert progress.state == "diverged"
    assert progress.step == 5 + 4, "three skips in a row are borne, the fourth is too many"
    assert all(p.isfinite().all() for p in run.parts.model.parameters())
    assert trial_state(tmp_path / "store", "study", wanted.id) == "diverged"
    assert "non-finite" in read_claim(tmp_path / "store", "study", wanted.id, 1)["exit_reason"]


def test_the_same_trial_gives_the_same_rows_and_another_seed_does_not(tmp_path: Path) -> None:
    from dataclasses import replace

    wanted = trials.trial()
    for name in ("one", "two"):
        trials.finish(trials.start(tmp_path / name, wanted))
    assert results(tmp_path / "one", wanted) == results(tmp_path / "two", wanted)
    other = replace(wanted, seed=4)
    trials.finish(trials.start(tmp_path / "three", other))
    values = [
        rows(tmp_path / name, "select value from metrics where split='val' and final order by task, metric")
        for name in ("one", "three")
    ]
    assert values[0] != values[1]


def test_the_geometry_of_a_step_is_told_beside_the_plain_sum(tmp_path: Path) -> None:
    """By hand on F2 with the weights of mgda, cut to half its length; and in the rows of a trial."""
    from mtlfleet.engine import StepInfo
    from mtlfleet.train.telemetry import Geometry, geometry

    gram = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    length = 0.2**0.5  # of (0.2, 0.4); both products with it are 0.2; the sum (0, 1) has length 1
    info = StepInfo(("a", "b"), torch.ones(2), weights, gram, length / 2, "ok", False, 0)
    told = geometry(info)
    assert told.descents == pytest.approx([0.1, 0.1])
    assert told.norm_to_sum == pytest.approx(length / 2)
    assert told.condition == pytest.approx((3 + 5**0.5) / (3 - 5**0.5))
    assert geometry(replace(info, gram=None)) == Geometry()
    trials.finish(trials.start(tmp_path, trials.trial("mgda", steps=6)))
    found = rows(tmp_path, "from task_gradients order by step")
    assert [row["step"] for row in found] == [3, 6]  # every log_every steps
    for row in found:
        i, j = row["norms"]
        gram = np.array([[i * i, i * j * row["cos_upper"][0]], [i * j * row["cos_upper"][0], j * j]])
        products = gram @ row["weights"]
        assert row["descents"] == pytest.approx(products, rel=1e-4)
        assert row["min_descent"] == min(row["descents"]) >= 0  # mgda hurts none
        assert row["norm_to_sum"] == pytest.approx(row["update_norm"] / gram.sum() ** 0.5, rel=1e-4)
        assert row["gram_condition"] == pytest.approx(np.linalg.cond(gram), rel=1e-2)
    by_task = rows(tmp_path, "select task, weight, descent from task_gradient_rows order by step, task")
    assert len(by_task) == 4 and {row["task"] for row in by_task} == set(found[0]["tasks"])
    assert [row["descent"] for row in by_task[:2]] == found[0]["descents"]
    assert [row["weight"] for row in by_task[2:]] == found[1]["weights"]
    assert rows(tmp_path, "select count(*) n from step_metrics where task = '*'") == [{"n": 0}]


def test_how_often_a_step_is_told_is_the_studys_choice(tmp_path: Path) -> None:
    """``train.log_every``; a method that looks at losses only has no norms, and says so by NULL."""
    wanted = trials.trial("sum", steps=6)
    wanted = replace(wanted, recipe=replace(wanted.recipe, log_every=2))
    trials.finish(trials.start(tmp_path, wanted))
    found = rows(tmp_path, "select distinct step, norm, descent, norm_to_sum from task_gradient_rows order by step")
    assert found == [{"step": s, "norm": None, "descent": None, "norm_to_sum": None} for s in (2, 4, 6)]
