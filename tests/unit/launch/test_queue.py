"""What runs next is a function of the study and the store, so a relaunch asks for exactly what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from mtlfleet.launch.queue import Queue, cell_of
from mtlfleet.plan import Study, Trial
from mtlfleet.store import AttemptWriter, trial_states

TEXT = """\
schema: mtlfleet/study/1
study: queue
methods: {stl: {}, sum: {}, ls: {use: linear, params: {weights: [1.0, 3.0]}}}
datasets: {synth: {use: synthetic_regression, params: {train: 64, val: 16, test: 16}}}
architectures: {mlp: {use: hps}}
seeds: [1, 2]
train: {steps: 10}
search: {space: {train.lr: {log_uniform: [1e-3, 1e-1]}}, trials_per_method: 3, seeds: [901, 902], select: SELECT}
"""


def study(folder: Path, select: str = "skill") -> Study:
    path = folder / "queue.yaml"
    path.write_text(TEXT.replace("SELECT", select))
    return Study.load(path)


def states(study: Study):  # type: ignore[no-untyped-def]
    return lambda ids: trial_states(study.root, study.name, ids)


def play(study: Study, trial: Trial, rmse: float | None, state: str = "done") -> None:
    """Write what a run of ``trial`` would have left: its final validation rows and how it ended."""
    writer = AttemptWriter.claim(
        study.root, study.name, trial.id, restored_step=0, restored_checkpoint=None, world_size=1
    )
    if rmse is not None:
        for task in trial.tasks:
            writer.metric(10, 0, "val", task, "rmse", rmse, n=16, final=True)
            # Test numbers that would reverse the choice, were they looked at.
            writer.metric(10, 0, "test", task, "rmse", 100.0 - rmse, n=16, final=True)
    writer.close(state, "", 10, 0.1, 0.1)


def drain(queue: Queue) -> list[Trial]:
    found = []
    while (trial := queue.next()) is not None:
        found.append(trial)
    return found


def finish(study: Study, queue: Queue, trials: Iterable[Trial], scores: dict[int, float]) -> None:
    for trial in trials:
        play(study, trial, scores[trial.config_index])
        queue.finished(trial.id, "done")


@pytest.mark.parametrize("select", ["skill", "delta_m", "task_1.rmse"])
def test_finals_follow_the_best_validation_configuration(tmp_path: Path, select: str) -> None:
    planned = study(tmp_path, select)
    queue = Queue(planned, states(planned))
    tuning = drain(queue)
    assert {t.phase for t in tuning} == {"tune"}
    assert len(tuning) == 3 * 2 * 4  # configurations x tuning seeds x cells (two of them single-task)
    finish(planned, queue, tuning, {0: 0.9, 1: 0.3, 2: 0.6})
    finals = drain(queue)
    assert len(finals) == 2 * 4
    assert {t.config_index for t in finals} == {1}
    assert {t.seed for t in finals} == {1, 2}


def test_a_relaunch_asks_for_what_is_missing_only(tmp_path: Path) -> None:
    planned = study(tmp_path)
    queue = Queue(planned, states(planned))
    tuning = drain(queue)
    finish(planned, queue, tuning[:-1], {0: 0.9, 1: 0.3, 2: 0.6})
    early = drain(queue)  # the cells whose search is over have their finals already
    play(planned, early[0], 0.5)

    again = Queue(planned, states(planned))
    missing = {t.id for t in drain(again)}
    assert missing == {tuning[-1].id} | {t.id for t in early[1:]}
    assert cell_of(tuning[-1]) not in again.selected


def test_diverged_and_failed_configurations_are_never_chosen(tmp_path: Path) -> None:
    planned = study(tmp_path)
    queue = Queue(planned, states(planned))
    for trial in drain(queue):
        if trial.method.name == "sum":
            play(planned, trial, None, "diverged")
            queue.finished(trial.id, "diverged")
        elif trial.config_index == 0 and trial.seed == 902:
            play(planned, trial, None, "failed")
            queue.finished(trial.id, "failed")
        else:
            play(planned, trial, {0: 0.0, 1: 0.8, 2: 0.4}[trial.config_index])
            queue.finished(trial.id, "done")
    finals = drain(queue)
    assert {t.method.name for t in finals} == {"stl", "ls"}
    assert {t.config_index for t in finals} == {2}
    assert [cell.method for cell in queue.hopeless] == ["sum"]


def test_failed_trials_run_again_on_request_only_and_block_nothing_twice(tmp_path: Path) -> None:
    planned = study(tmp_path)
    queue = Queue(planned, states(planned))
    tuning = drain(queue)
    for trial in tuning:
        play(planned, trial, 0.5, "failed" if trial is tuning[0] else "done")
    assert tuning[0].id not in {t.id for t in drain(Queue(planned, states(planned)))}

    again = Queue(planned, states(planned), rerun=frozenset({"failed"}))
    assert again.next() == tuning[0]
    assert cell_of(tuning[0]) not in again.selected, "the cell waits for the trial that is run again"
    again.finished(tuning[0].id, "failed")
    drain(again)
    assert cell_of(tuning[0]) in again.selected, "its second failure is its last word"


def test_an_unfinished_attempt_is_owed(tmp_path: Path) -> None:
    planned = study(tmp_path)
    first = planned.tune_trials()[0]
    AttemptWriter.claim(
        planned.root, planned.name, first.id, restored_step=0, restored_checkpoint=None, world_size=1
    ).abandon()
    assert first.id in {t.id for t in drain(Queue(planned, states(planned)))}
