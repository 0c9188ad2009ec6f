"""What a tracker shows is what the store says, once, with NaN and infinities treated as promised."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from mtlfleet.cli import export
from mtlfleet.errors import EnvironmentProblem, UsageError
from mtlfleet.plan import Study
from mtlfleet.store import AttemptWriter, open_store
from mtlfleet.store.mirrors import Mirrored, mirror

SPOILED = {"ls0": ("a", "accuracy")}


@pytest.fixture
def store(make_study: Callable[..., Path]) -> Path:
    root = make_study(spoil=SPOILED, skip=("pcgrad1",))
    writer = AttemptWriter.claim(root, "s", "pcgrad1", restored_step=0, restored_checkpoint=None, world_size=1)
    for step, value in ((1, 0.5), (2, math.inf), (3, -math.inf), (4, math.nan)):
        writer.step_metric(step, "a", "loss", value)
    writer.close("diverged", "loss is not finite", 4)
    return root


def stored(root: Path, trial: str) -> dict[tuple[str, int], float]:
    rows = open_store(root).rows(
        "SELECT concat_ws('/', split, task, metric) AS name, step, value FROM metrics WHERE trial_id = $t UNION ALL"
        " SELECT concat_ws('/', 'step', task, metric), step, value FROM step_metrics WHERE trial_id = $t",
        {"t": trial},
    )
    return {(r["name"], r["step"]): r["value"] for r in rows}


def test_tensorboard_reads_back_every_value_also_nan(store: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = mirror("tensorboard", open_store(store), "s", str(tmp_path / "tb"))
    assert (found.written, found.unchanged, found.withheld) == (8, 0, 0)
    folders = {p.name.rpartition("-")[2]: p for p in (tmp_path / "tb").iterdir()}
    for trial in ("ls0", "pcgrad1", "stl1b"):
        events = EventAccumulator(str(folders[trial]), size_guidance={"scalars": 0}).Reload()
        read = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
        expected = {k: float.fromhex(float(v).hex()) for k, v in stored(store, trial).items()}
        rounded = {k: v if not math.isfinite(v) else pytest.approx(v, rel=1e-7) for k, v in expected.items()}
        assert read.keys() == rounded.keys()
        assert all(read[k] == v or (math.isnan(read[k]) and math.isnan(expected[k])) for k, v in rounded.items())
    assert sum(math.isnan(v) for v in stored(store, "ls0").values()) == 1


def test_tensorboard_again_brings_only_what_is_new(store: Path, small: ModuleType, tmp_path: Path) -> None:
    target = str(tmp_path / "tb")
    mirror("tensorboard", open_store(store), "s", target)
    assert mirror("tensorboard", open_store(store), "s", target)[:2] == (0, 8)
    writer = AttemptWriter.claim(store, "s", "ls0", restored_step=0, restored_checkpoint=None, world_size=1)
    writer.metric(10, 1.0, "val", "a", "accuracy", 0.25, 10, True)  # the first attempt's rows no longer count
    writer.close("done", "", 10)
    assert mirror("tensorboard", open_store(store), "s", target)[:3] == (1, 7, 1)
    assert len(list((tmp_path / "tb").iterdir())) == 8


def test_tensorboard_leaves_other_programs_folders_alone(store: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "tb/ls-d-s0-ls0"
    theirs.mkdir(parents=True)
    (theirs / "notes").write_text("mine")
    with pytest.raises(EnvironmentProblem, match="was not made by mtlfleet"):
        mirror("tensorboard", open_store(store), "s", str(tmp_path / "tb"))
    assert (theirs / "notes").read_text() == "mine"


def test_mlflow_holds_each_run_once_and_no_false_number(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow turns NaN into 0 and infinity into 1.8e308: neither may arrive."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    target = str(tmp_path / "ml")
    found = mirror("mlflow", open_store(store), "s", target)
    assert (found.written, found.withheld) == (8, 4)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=target)
    experiment = client.get_experiment_by_name("s").experiment_id
    runs = {run.data.tags["mtlfleet.trial"]: run for run in client.search_runs([experiment])}
    assert len(runs) == 8
    for trial, run in runs.items():
        read = {
            (m.key, m.step): m.value
            for key in run.data.metrics
            for m in client.get_metric_history(run.info.run_id, key)
        }
        assert read == {k: v for k, v in stored(store, trial).items() if math.isfinite(v)}
    diverged = runs["pcgrad1"]
    assert diverged.data.tags["nonfinite/step/a/loss"] == "inf at step 2"
    assert (diverged.data.tags["mtlfleet.nonfinite"], diverged.info.status) == ("3", "FAILED")
    assert (runs["ls1"].info.status, runs["ls1"].data.params["c"], runs["ls1"].data.params["seed"]) == (
        "FINISHED",
        "0.5",
        "1",
    )
    assert mirror("mlflow", open_store(store), "s", target) == Mirrored(0, 8, 0, 0)
    assert len(client.search_runs([experiment])) == 8


def test_a_tracker_that_refuses_is_an_error_with_its_words(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(EnvironmentProblem, match="did not take the results"):
        mirror("mlflow", open_store(store), "s", str(tmp_path / "ml"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        mirror("tensorboard", open_store(store), "s", str(tmp_path / "file/tb"))


@pytest.mark.parametrize("kind", ["mlflow", "tensorboard"])
def test_without_the_extra_the_command_says_which(store: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    import mtlfleet.store.mirrors as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem) as caught:
        CliRunner().invoke(export.command, [str(store), "--to", kind, "-o", "x"], catch_exceptions=False)
    assert caught.value.exit_code == 4 and f"pip install 'mtlfleet[{kind}]'" in str(caught.value)


def test_export_asks_for_a_place(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match="needs -o"):
        CliRunner().invoke(export.command, [str(store), "--to", "mlflow"], catch_exceptions=False)


STUDY = """\
schema: mtlfleet/study/1
study: mirrored
methods: {sum: {}}
datasets: {synth: {use: synthetic_regression, params: {train: 64, val: 16, test: 16, dim: 4}}}
architectures: {mlp: {use: hps, params: {backbone: mlp, width: 8, depth: 1}}}
seeds: {count: 1, base: 1}
train: {lr: 0.01, global_batch: 32, steps: 5, eval_every: 5}
"""


def test_a_study_names_its_mirrors_outside_of_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER", "https://user:secret@tracker.invalid")
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    plain = Study.load(path)
    path.write_text(STUDY + 'mirrors: {tensorboard: ./tb, mlflow: "${env:TRACKER}"}\n')
    study = Study.load(path)
    assert dict(study.mirrors) == {
        "tensorboard": str(tmp_path / "tb"),
        "mlflow": "https://user:secret@tracker.invalid",
    }
    assert plain.mirrors == () and study.sha256 == plain.sha256
    assert [t.key for t in study.final_trials(dict.fromkeys(study.cells(), 0))] == [
        t.key for t in plain.final_trials(dict.fromkeys(plain.cells(), 0))
    ]
    assert "secret" not in str(study.spec)
