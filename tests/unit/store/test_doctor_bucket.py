"""`mtlfleet doctor --repair` on a store in a bucket does what it does in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import one_trial
import pytest
from click.testing import CliRunner

from mtlfleet.cli import main
from mtlfleet.store import (
    AttemptWriter,
    Ingester,
    Store,
    new_checkpoint,
    restorable,
    stamp,
    trial_state,
    write_document,
)
from mtlfleet.store.bucket import Bucket
from mtlfleet.store.mirror import published, sealed
from mtlfleet.store.place import at

STUDY = one_trial.STUDY + 'storage: {root: "ROOT", publish: {max_bytes: 1}}\n'
BAD, GOOD = "segments/study=s/trial=bad", "segments/study=s/trial=good"
ROWS = "SELECT trial_id, attempt, step, value FROM step_metrics ORDER BY ALL"


def claim(root: str, trial: str) -> AttemptWriter:
    return AttemptWriter.claim(root, "s", trial, restored_step=0, restored_checkpoint=None, world_size=1)


def finish(writer: AttemptWriter, value: float) -> None:
    writer.step_metric(1, "a", "loss", value)
    writer.close("done", last_step=1)


def invoke(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(main, [str(word) for word in words])
    return found.exit_code, found.output


@pytest.fixture
def study(s3_root: str, tmp_path: Path) -> Path:
    """The study file of a store with two trials that are done; one left a checkpoint."""
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("ROOT", s3_root))
    for trial in ("bad", "good"):
        finish(claim(s3_root, trial), 1.0)
    with new_checkpoint(s3_root, "s", "bad", 1, 1) as folder:
        (folder / "state").write_text("x")
    write_document(s3_root, "s", "studies", [{"title": "t", "spec": {}, "spec_sha256": "1"}])
    with Ingester(s3_root, max_bytes=1) as ingester:
        ingester.run_once()
        ingester.publish()
    assert len(list(at(s3_root).walk("sealed"))) == 2
    return path


def damage(root: str) -> bytes:
    """Cut the end off a segment that this machine has fetched when it was sound; gives what is left of it."""
    key = f"{BAD}/attempt=1/step_metrics-000001.parquet"
    with Store(root).session(use_snapshot=False):
        pass
    cut = at(root).read(key)[:-20]
    at(root).put(key, cut)
    return cut


def test_a_damaged_trial_is_set_aside_and_runs_again(study: Path, s3_root: str) -> None:
    place = at(s3_root)
    assert invoke("doctor", study)[0] == 0
    cut = damage(s3_root)
    code, said = invoke("doctor", study)
    assert code == 7 and f"{BAD}/attempt=1/step_metrics-000001.parquet" in said and "--repair" in said
    code, said = invoke("doctor", s3_root, "--repair")
    assert code == 2 and "name the study file" in said
    code, said = invoke("doctor", study, "--repair", "--json")
    assert code == 0, said
    report = json.loads(said)
    (aside, checkpoints) = report["moved"]
    assert aside.startswith(f"{s3_root}/quarantine/") and aside.endswith(BAD) and checkpoints.endswith("trial=bad")
    folder = aside.removeprefix(f"{s3_root}/")
    assert place.read(f"{folder}/attempt=1/step_metrics-000001.parquet") == cut
    assert place.names(folder) == ["attempt=1.end.json", "attempt=1.json", "attempt=1/"]
    assert place.names(BAD) == ["retired=1.json"] and trial_state(s3_root, "s", "bad") == "missing"
    assert restorable(s3_root, "s", "bad") is None
    good = {"trial_id": "good", "attempt": 1, "step": 1, "value": 1.0}
    assert Store(s3_root).rows(ROWS) == [good]
    assert [key.split("/")[2] for key in sealed(published(s3_root))] == ["trial=good"]  # by the study's max_bytes

    writer = claim(s3_root, "bad")
    assert writer.attempt == 2  # the number of what was set aside is not given again
    finish(writer, 2.0)
    assert Store(s3_root).rows(ROWS) == [{"trial_id": "bad", "attempt": 2, "step": 1, "value": 2.0}, good]
    assert invoke("doctor", study)[0] == 0


def test_what_lies_on_this_machine_hides_no_damage_and_is_none(study: Path, s3_root: str) -> None:
    with Store(s3_root).session(use_snapshot=False):
        pass
    (copy,) = Path(os.environ["XDG_CACHE_HOME"]).glob(f"mtlfleet/*/{BAD}/attempt=1/step_metrics-000001.parquet")
    copy.chmod(0o644)
    copy.write_bytes(copy.read_bytes()[:-20])
    lost = sorted(sealed(published(s3_root)))[0]
    at(s3_root).delete([lost])
    code, said = invoke("doctor", study)
    assert code == 7 and "1 problem" in said and lost in said  # the segment is sound where it counts
    assert stamp.look(copy)  # and was fetched again
    assert invoke("doctor", study, "--repair")[0] == 0
    assert lost in at(s3_root).walk("sealed") and len(Store(s3_root).rows(ROWS)) == 2


def test_what_a_killed_repair_left_is_found_again_or_has_not_run(
    study: Path, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed_at(deletion: int) -> None:
        delete, done = Bucket.delete, iter(range(100))

        def die(self: Bucket, keys: Sequence[str]) -> None:
            if next(done) == deletion:
                raise Killed
            delete(self, keys)

        monkeypatch.setattr(Bucket, "delete", die)
        with pytest.raises(Killed):
            invoke("doctor", study, "--repair")
        monkeypatch.undo()

    damage(s3_root)
    killed_at(2)  # the checkpoint is gone, the claims are copied
    assert restorable(s3_root, "s", "bad") is None and trial_state(s3_root, "s", "bad") == "done"
    killed_at(1)  # the claims are gone, the rows are copied
    assert trial_state(s3_root, "s", "bad") == "missing"
    assert invoke("doctor", study, "--repair")[0] == 0
    assert claim(s3_root, "bad").attempt == 2
    assert [row["trial_id"] for row in Store(s3_root).rows(ROWS)] == ["good"]
