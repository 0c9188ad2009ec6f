"""Who may run a trial, and from where."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mtlfleet.errors import EnvironmentProblem, UsageError
from mtlfleet.store import (
    AttemptWriter,
    checkpoint_key,
    end_attempt,
    restorable,
    restorables,
    trial_state,
    trial_states,
)

STUDY, TRIAL = "s", "t" * 16


def claim(root: Path, step: int = 0, checkpoint: str | None = None) -> AttemptWriter:
    return AttemptWriter.claim(root, STUDY, TRIAL, restored_step=step, restored_checkpoint=checkpoint, world_size=1)


def checkpoint(root: Path, step: int, attempt: int) -> Path:
    path = root / checkpoint_key(STUDY, TRIAL, step, attempt)
    path.mkdir(parents=True)
    (path / "state").write_text("x")
    return path


def test_racing_claimers_get_different_numbers(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    numbers: list[int] = []

    def race() -> None:
        barrier.wait()
        for _ in range(3):
            writer = claim(tmp_path)
            numbers.append(writer.attempt)
            writer.abandon()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 25))


def test_a_checkpoint_counts_up_to_what_later_attempts_restored(tmp_path: Path) -> None:
    claim(tmp_path).abandon()
    for step in (10, 20, 30):
        checkpoint(tmp_path, step, 1)
    found = restorable(tmp_path, STUDY, TRIAL)
    assert found is not None and (found.step, found.attempt) == (30, 1)
    claim(tmp_path, 20).abandon()  # 30 was unreadable, say
    checkpoint(tmp_path, 25, 2)
    checkpoint(tmp_path, 40, 1)  # the first attempt still runs
    assert [(c.step, c.attempt) for c in restorables(tmp_path, STUDY, TRIAL)] == [(25, 2), (20, 1), (10, 1)]


def test_half_written_empty_and_unclaimed_checkpoints_are_not_seen(tmp_path: Path) -> None:
    claim(tmp_path).abandon()
    good = checkpoint(tmp_path, 10, 1)
    (good.parent / ".step=000000020-attempt=1.tmp-x").mkdir()
    (good.parent / "step=000000030-attempt=1").mkdir()
    checkpoint(tmp_path, 40, 9)
    assert [c.step for c in restorables(tmp_path, STUDY, TRIAL)] == [10]


def test_a_checkpoint_superseded_while_loading_is_refused(tmp_path: Path) -> None:
    claim(tmp_path).abandon()
    loaded = checkpoint(tmp_path, 30, 1)
    claim(tmp_path, 10).abandon()
    with pytest.raises(EnvironmentProblem, match="superseded"):
        claim(tmp_path, 30, str(loaded))
    assert len(list(loaded.parents[3].glob("segments/*/*/attempt=3*"))) == 0


def test_rows_that_cannot_count_are_refused_at_once(tmp_path: Path) -> None:
    writer = claim(tmp_path, 10)
    with pytest.raises(ValueError, match="cannot count"):
        writer.metric(10, 1.0, "val", "a", "accuracy", 0.5)
    writer.abandon()


def test_states_follow_the_highest_attempt_and_the_first_word(tmp_path: Path) -> None:
    assert trial_state(tmp_path, STUDY, TRIAL) == "missing"
    first = claim(tmp_path)
    assert trial_state(tmp_path, STUDY, TRIAL) == "running"
    assert end_attempt(tmp_path, STUDY, TRIAL, 1, state="lost", reason="node gone")
    first.close("done")  # the driver had given it up
    assert trial_state(tmp_path, STUDY, TRIAL) == "lost"
    claim(tmp_path).close("diverged", "nan")
    assert trial_states(tmp_path, STUDY, [TRIAL, "other"]) == {TRIAL: "diverged", "other": "missing"}


def test_a_failed_write_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtlfleet.store import durable

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    writer = claim(tmp_path)
    writer.step_metric(1, "a", "loss", 1.0)
    writer.flush()
    writer.step_metric(2, "a", "loss", 2.0)
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", full)
        with pytest.raises(EnvironmentProblem, match="No space left"):
            writer.flush()
    writer.step_metric(3, "a", "loss", 3.0)
    writer.close("done")
    from mtlfleet.store import Store

    assert Store(tmp_path).sql("SELECT step, value FROM step_metrics ORDER BY step").to_pylist() == [
        {"step": 1, "value": 1.0},
        {"step": 2, "value": 2.0},
        {"step": 3, "value": 3.0},
    ]
    assert not list(tmp_path.rglob("*.tmp-*"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "x" * 200])
def test_names_cannot_leave_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        AttemptWriter.claim(tmp_path, STUDY, name, restored_step=0, restored_checkpoint=None, world_size=1)
    assert not list(tmp_path.parent.glob("x"))


def test_a_large_buffer_is_written_without_being_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtlfleet.store.writer.FLUSH_ROWS", 100)
    writer = claim(tmp_path)
    for step in range(1, 151):
        writer.step_metric(step, "a", "loss", 1.0)
    deadline = threading.Event()
    for _ in range(200):
        if list(tmp_path.rglob("step_metrics-*.parquet")):
            break
        deadline.wait(0.05)
    assert list(tmp_path.rglob("step_metrics-*.parquet"))
    writer.abandon()
