"""A store that cannot be reached while a launch runs: told, waited for, and nothing is written over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from one_trial import STUDY

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.launch import driver
from mtlfleet.launch.drain import Drain
from mtlfleet.launch.gang import Gang, TrialFailed, _write_end
from mtlfleet.launch.progress import display
from mtlfleet.launch.queue import Queue
from mtlfleet.launch.rank import Fault
from mtlfleet.plan import Study
from mtlfleet.store import AttemptWriter, Ingester, new_checkpoint, newest_attempt, restorable
from mtlfleet.train.build import Site
from mtlfleet.train.progress import Progress


@pytest.fixture
def study(tmp_path: Path) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return Study.load(path)


class Screen:
    """What was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while not any(text in line for line in self.said):
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)


def test_a_scheduler_that_cannot_ask_the_store_stops_handing_out_trials(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise EnvironmentProblem("cannot list s3://b/x: no answer")

    screen = Screen()
    drain = Drain(study.folder, screen.say)
    queue = Queue(study, lambda ids: dict.fromkeys(ids, "missing"))
    watch = driver.Watch(study, queue, display("none"), drain, 1)
    watch.known = 0  # trials have become known that are not written down
    monkeypatch.setattr(driver.documents, "write_trials", away)
    assert watch.next() is None
    assert drain.requested and drain.code == EnvironmentProblem.exit_code
    assert screen.said == ["stopping: the results cannot be reached: cannot list s3://b/x: no answer"]


def test_an_ingester_that_could_not_start_starts_later(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "INGEST_S", 0.01)
    screen, root = Screen(), Path(study.root)
    AttemptWriter.claim(root, "s", "t", restored_step=0, restored_checkpoint=None, world_size=1).close("done")
    other = Ingester(root)
    with driver._ingesting(study, screen):  # type: ignore[arg-type]
        screen.until("ingestion failed and will be tried again: another process is folding results")
        other.close()
        deadline = time.monotonic() + 60
        while not (root / "results.duckdb").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert (root / "results.duckdb").exists()


def cell(study: Study) -> dict[str, object]:
    return {"site": Site(study.root, "s", study.plugins, study.path.parent), "id": "t", "world": 1}


def claim(study: Study, step: int = 0) -> AttemptWriter:
    return AttemptWriter.claim(study.root, "s", "t", restored_step=step, restored_checkpoint=None, world_size=1)


def test_a_store_that_was_away_takes_nothing_from_what_a_trial_has(study: Study) -> None:
    """A rank gives up because of it when the word that ends the trial is written, or a checkpoint lies there."""
    claim(study).close("interrupted")
    with new_checkpoint(study.root, "s", "t", 10, 1) as folder:
        (folder / "state").write_text("x")
    assert _write_end(cell(study), "lost", "away") == "lost"
    found = restorable(study.root, "s", "t")
    assert found is not None and found.step == 10
    claim(study, 10).close("done")
    assert _write_end(cell(study), "lost", "away") == "done"
    newest = newest_attempt(study.root, "s", "t")
    assert newest is not None and (newest["attempt"], newest["state"]) == (2, "done")


def test_a_failure_has_a_place_in_the_store(study: Study) -> None:
    assert _write_end(cell(study), "lost", "no such folder") == "lost"  # before anything was claimed
    claim(study)
    assert _write_end(cell(study), "failed", "the third step") == "failed"
    newest = newest_attempt(study.root, "s", "t")
    assert newest is not None and (newest["attempt"], newest["state"]) == (2, "failed")


class Scripted(Gang):
    """A gang without Ray: what its ranks answer is given."""

    def __init__(self, cell: dict[str, object], answers: list[Progress | Fault]) -> None:
        self.ranks, self.answers, self.begun = ["a rank"], answers, 0
        self._take({**cell, "stretch_s": 1.0})

    def _begin(self) -> None:
        self.begun += 1
        claim(self.cell["study"]).abandon()
        self.started = True

    def _form(self) -> None:
        self.ranks = ["a rank"]

    def _disband(self) -> None:
        self.ranks = []

    def _all(self, verb: str, *arguments: object) -> list[Progress]:
        found = self.answers.pop(0)
        if isinstance(found, Fault):
            raise TrialFailed(found)
        return [found]


AWAY, FULL = Fault("away", 0, "no answer in 60 s"), Fault("environment", 0, "no space left")
DONE = Progress(4, 4, "done", 2, 1.0)


@pytest.mark.parametrize(
    ("answers", "state", "begun"),
    [
        ([AWAY, DONE], "done", 2),  # the store is back: its end could be written
        ([FULL, DONE], "lost", 1),
        ([AWAY] * 4 + [DONE], "lost", 4),
    ],
)
def test_a_trial_goes_on_when_the_store_is_back(
    study: Study, answers: list[Progress | Fault], state: str, begun: int
) -> None:
    gang = Scripted({**cell(study), "study": study}, list(answers))
    result = gang.step()
    assert (result["state"], gang.begun) == (state, begun)
