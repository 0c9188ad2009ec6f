"""What a trial leaves beside its rows: what it ran in, and the model that validation chose."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import short_trials as trials

from mtlfleet import load_model
from mtlfleet.datasets.base import Split
from mtlfleet.engine.contract import Context
from mtlfleet.errors import StoreDamaged, UsageError
from mtlfleet.store import keep_artifact, open_store, read_claim, trial_state, write_document
from mtlfleet.store.place import at
from mtlfleet.train import Communicator, Site, TrialRun
from mtlfleet.train.environment import Origin
from mtlfleet.train.evaluate import evaluate


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout


def test_the_origin_names_commit_and_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert Origin.here(tmp_path).git_commit is None  # a repository without a commit
    (tmp_path / "study.yaml").write_text("a")
    git(tmp_path, "add", "study.yaml")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "untracked").write_text("results beside the study are no change")
    found = Origin.here(tmp_path)
    assert found.git_commit == git(tmp_path, "rev-parse", "HEAD").strip() and found.git_dirty is False
    assert found.command
    (tmp_path / "study.yaml").write_text("b")
    assert Origin.here(tmp_path).git_dirty is True


def test_no_repository_and_no_git_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert Origin.here(tmp_path).git_commit is None and Origin.here(tmp_path).git_dirty is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Origin.here(tmp_path).git_commit is None


def test_every_attempt_says_what_it_ran_in(tmp_path: Path) -> None:
    wanted = trials.trial(steps=6)
    for command in ("mtlfleet launch a.yaml", "mtlfleet launch b.yaml"):
        origin = Origin(command, "c0ffee", True)
        trials.finish(trials.start(tmp_path, wanted, Site(tmp_path, "study", origin=origin)))
    told = read_claim(tmp_path, "study", wanted.id, 1)["environment"]
    assert told["python"] == platform.python_version() and told["torch"] == torch.__version__
    assert told["packages"]["duckdb"] == version("duckdb") and told["gpu"] is None
    query = (
        "SELECT attempt, command, git_commit, git_dirty FROM attempts JOIN environments USING (env_sha256) ORDER BY 1"
    )
    rows = [tuple(row.values()) for row in open_store(tmp_path).sql(query).to_pylist()]
    assert rows == [
        (1, "mtlfleet launch a.yaml", "c0ffee", True),
        (2, "mtlfleet launch b.yaml", "c0ffee", True),
    ]


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_the_kept_weights_are_those_that_were_measured(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = tmp_path if where == "folder" else request.getfixturevalue("s3_root")
    wanted = trials.trial()
    site = Site(root, "study", keep_weights=True)
    run = trials.start(root, wanted, site)
    trials.finish(run)
    store = open_store(root)
    (row,) = store.sql("SELECT * FROM artifacts").to_pylist()
    assert row["kind"] == "weights" and row["trial_id"] == wanted.id and row["step"] == 24
    assert len(at(root).read(row["uri"])) == row["size_bytes"]
    write_document(root, "study", "trials", [{"trial_id": wanted.id, "config": json.loads(wanted.to_json())}])
    model = load_model(root, wanted.id[:6])
    assert not model.training
    found = evaluate(model, run.parts.splits[Split.TEST], run.parts.tasks, Context(), Communicator())
    measured = {(m.task, m.metric): m.value for m in found}
    query = "SELECT task, metric, value FROM metrics WHERE final AND split = 'test' ORDER BY ALL"
    stored = {(r["task"], r["metric"]): r["value"] for r in store.sql(query).to_pylist()}
    assert measured == stored and len(stored) == 2


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    kept, tuned = trials.trial(steps=6), trials.trial(phase="tune", steps=6)
    for wanted in (kept, tuned):
        trials.finish(trials.start(tmp_path, wanted, Site(tmp_path, "study", keep_weights=True)))
    rows = [{"trial_id": t.id, "config": json.loads(t.to_json())} for t in (kept, tuned)]
    write_document(tmp_path, "study", "trials", rows)
    with pytest.raises(UsageError, match="were not kept"):
        load_model(tmp_path, tuned.id)
    with pytest.raises(UsageError, match="no trial's id"):
        load_model(tmp_path, "zz")
    (file,) = tmp_path.rglob("model.safetensors")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreDamaged, match="not what was written"):
        load_model(tmp_path, kept.id)
    file.unlink()
    with pytest.raises(StoreDamaged, match="not there"):
        load_model(tmp_path, kept.id)


def test_weights_are_kept_of_final_trials_and_on_request(tmp_path: Path) -> None:
    for wanted, keep in ((trials.trial(phase="tune"), True), (trials.trial(), False)):
        trials.finish(trials.start(tmp_path, wanted, Site(tmp_path, "study", keep_weights=keep)))
    assert not (tmp_path / "artifacts").exists()
    assert open_store(tmp_path).sql("SELECT * FROM artifacts").num_rows == 0


def test_a_file_that_could_not_be_made_is_not_there(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no more memory")

    with pytest.raises(RuntimeError):
        keep_artifact(tmp_path, "s", "t", 1, "model.safetensors", fail)
    assert not list(tmp_path.rglob("model*"))


class Killed(Exception):
    pass


def die(run: TrialRun) -> None:
    raise Killed


def test_a_trial_out_of_patience_can_die_while_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last checkpoint must lie before the step of its final rows, or these would not count."""
    wanted = trials.trial(lr=0.0, patience=2, checkpoint_every=6, eval_every=6, steps=60)
    with monkeypatch.context() as patch:
        patch.setattr(TrialRun, "_finish", die)
        run = trials.start(tmp_path, wanted)
        with pytest.raises(Killed):
            run.advance(seconds=60.0)
    assert run.position.step == 18  # one look that is better than none, two that are not
    run.writer.abandon()
    again = trials.start(tmp_path, wanted)
    assert again.position.step == 12
    trials.finish(again)
    assert trial_state(tmp_path, "study", wanted.id) == "done"
    assert open_store(tmp_path).sql("SELECT DISTINCT step FROM metrics WHERE final").to_pylist() == [{"step": 18}]
