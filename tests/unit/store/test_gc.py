"""What may be deleted, and what never."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from click.testing import CliRunner

from mtlfleet.cli import gc
from mtlfleet.store import AttemptWriter, checkpoint_key, keep_artifact, restorable


def collect(root: Path, *words: str) -> dict[str, str]:
    found = CliRunner().invoke(gc.command, [str(root), "--json", *words], catch_exceptions=False)
    return {Path(w["path"]).name: w["reason"] for w in json.loads(found.stdout)["deleted"]}


def test_only_what_no_attempt_can_use_goes(tmp_path: Path) -> None:
    for restored in (0, 10):
        writer = AttemptWriter.claim(tmp_path, "s", "t", restored_step=restored, restored_checkpoint=None, world_size=1)
        writer.step_metric(restored + 1, "a", "loss", 1.0)
        writer.flush()
        writer.abandon()
    for step, attempt in ((10, 1), (20, 1), (15, 2)):
        path = tmp_path / checkpoint_key("s", "t", step, attempt)
        path.mkdir(parents=True)
        (path / "state").write_text("x" * 100)
    rows = next(tmp_path.rglob("step_metrics-*.parquet"))
    fresh, stale = (rows.parent / f".{n}.parquet.tmp-1" for n in ("fresh", "stale"))
    for path in (fresh, stale):
        path.write_text("x")
    os.utime(stale, (0, 0))
    kept = {
        p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "segments").rglob("*.[jp]*") if p != stale
    }
    expected = {"step=000000020-attempt=1": "superseded", ".stale.parquet.tmp-1": "half-written"}

    assert collect(tmp_path, "--dry-run") == expected
    assert stale.exists()
    assert collect(tmp_path) == expected
    assert collect(tmp_path) == {}
    assert {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in kept} == kept and not stale.exists()
    found = restorable(tmp_path, "s", "t")
    assert found is not None and found.step == 15

    for attempt in (1, 2):
        keep_artifact(tmp_path, "s", "t", attempt, f"of-{attempt}", lambda path: path.write_text("x"))
    assert collect(tmp_path) == {"of-1": "artifact"}
    assert (tmp_path / "artifacts/study=s/trial=t/attempt=2/of-2").exists()

    assert collect(tmp_path, "--checkpoints") == {}  # the trial is not finished
    writer = AttemptWriter.claim(tmp_path, "s", "t", restored_step=15, restored_checkpoint=None, world_size=1)
    writer.close("done")
    assert set(collect(tmp_path, "--checkpoints").values()) == {"finished", "artifact"}
    assert restorable(tmp_path, "s", "t") is None
