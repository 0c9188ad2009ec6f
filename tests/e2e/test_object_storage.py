"""A study whose results lie in a bucket, as a user runs it: launched, asked, judged; the same study as in a folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

import fleet

from mtlfleet.cli import main
from mtlfleet.plan import Study
from mtlfleet.store import AttemptWriter, Ingester, new_checkpoint, restorables, write_document
from mtlfleet.store.place import at

SMALL = (
    ("trials_per_method: 2", "trials_per_method: 1"),
    ("steps: 60, eval_every: 20, checkpoint_every: 20", "steps: 20, eval_every: 10, checkpoint_every: 10"),
    ("seeds: [1, 2]", "seeds: [1]"),
    ("methods: {stl: {}, ls: {use: linear, space: {weights: {simplex: {tasks: 2, points: 3}}}}, pcgrad: {}}",
     "methods: {stl: {}, ls: {use: linear}, pcgrad: {}}"),
    ("resources: {workers: 2}", "resources: {workers: 1}"),
)  # fmt: skip


def ask(*words: str | Path) -> str:
    """A reading command in this process; it must succeed."""
    found = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.slow
def test_a_study_in_a_bucket_is_the_same_study(s3_root: str, tmp_path: Path) -> None:
    here = fleet.write(tmp_path / "folder", fleet.STUDY, *SMALL)
    there = fleet.write(tmp_path / "bucket", fleet.STUDY, *SMALL)
    there.write_text(there.read_text() + f'storage: {{root: "{s3_root}"}}\n')
    assert {t.key for t in Study.load(here).tune_trials()} == {t.key for t in Study.load(there).tune_trials()}

    local, remote = (fleet.run("launch", path, "--progress", "plain", timeout=900) for path in (here, there))
    assert local.returncode == remote.returncode == 0, remote.stderr
    assert f"{s3_root}/results.duckdb" in remote.stdout
    digest = ask("digest", here)
    assert digest == ask("digest", there) == ask("digest", s3_root, "--segments")

    assert {"claims/", "documents/", "logs/", "results.duckdb", "segments/"} <= set(at(s3_root).names(""))
    left = {p.name for p in (there.parent / "runs" / "tiny").iterdir()}
    assert not {"segments", "documents", "claims", "checkpoints", "results.duckdb"} & left and "report.html" in left
    again = json.loads(ask("launch", there, "--json", "--progress", "none"))
    assert again["ran"] == 0 and again["states"] == {"done": json.loads(ask("status", there, "--json"))["trials"]}
    _by_url(s3_root, tmp_path / "page.html")


def _by_url(root: str, page: Path) -> None:
    """The commands that need no study file."""
    status = json.loads(ask("status", root, "--json"))
    assert status["states"]["done"] == status["trials"] > 0 and status["root"] == root
    trials = json.loads(ask("sql", root, "SELECT trial_id FROM trials", "--format", "json"))
    assert len(trials) == status["trials"]
    assert json.loads(ask("claims", root, "--json"))["verdicts"][0]["claim_id"] == "pcgrad_beats_sum"
    ask("report", root, "-o", page)
    assert "pcgrad" in page.read_text()
    assert "trial ends" in ask("logs", trials[0]["trial_id"], "--study", root)
    assert trials[0]["trial_id"] in ask("show", trials[0]["trial_id"], "--study", root)


def test_what_no_attempt_can_use_goes_from_a_bucket_too(s3_root: str) -> None:
    for restored in (0, 10):
        AttemptWriter.claim(s3_root, "s", "t", restored_step=restored, restored_checkpoint=None, world_size=1).abandon()
    for step, attempt in ((10, 1), (20, 1), (15, 2)):
        with new_checkpoint(s3_root, "s", "t", step, attempt) as folder:
            (folder / "state").write_text("x" * 100)
    deleted = json.loads(ask("gc", s3_root, "--json"))["deleted"]
    assert [(d["path"].rpartition("/")[2], d["reason"]) for d in deleted] == [
        ("step=000000020-attempt=1", "superseded")
    ]
    assert deleted[0]["size_bytes"] >= 100
    assert [c.step for c in restorables(s3_root, "s", "t")] == [15, 10]


def test_every_way_of_asking_reads_a_bucket(s3_root: str, tmp_path: Path) -> None:
    query, found = "SELECT count(*) AS n FROM step_metrics", [{"n": 2}]
    writer = AttemptWriter.claim(s3_root, "s", "t", restored_step=0, restored_checkpoint=None, world_size=1)
    writer.step_metric(1, "a", "loss", 1.0)
    writer.flush()
    write_document(s3_root, "s", "studies", [{"title": "t", "spec": {}, "spec_sha256": "1"}])
    with Ingester(s3_root) as ingester:
        ingester.run_once()
        ingester.publish()
    writer.step_metric(2, "a", "loss", 2.0)
    writer.close("done")
    for source, answer in (("--live", found), ("--segments", found), ("--snapshot", [{"n": 1}])):
        assert json.loads(ask("sql", s3_root, query, "--format", "json", source)) == answer
    typed = CliRunner().invoke(main, ["shell", s3_root, "--format", "json"], input=f"{query};")
    assert typed.exit_code == 0 and json.loads(typed.stdout) == found
    assert "no problem found" in ask("doctor", s3_root)
    assert CliRunner().invoke(main, ["doctor", s3_root, "--repair"]).exit_code == 2
    ask("export", s3_root, "--to", "duckdb", "-o", tmp_path / "all.duckdb")
    with duckdb.connect(str(tmp_path / "all.duckdb"), read_only=True) as con:
        assert con.sql(query).fetchall() == [(2,)]

    with Ingester(s3_root, max_bytes=1) as ingester:  # its rows leave the published file
        ingester.run_once()
        ingester.publish()
    assert len(list(at(s3_root).walk("sealed"))) == 1
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])  # another machine asks
    for source in ("--live", "--segments", "--snapshot"):
        assert json.loads(ask("sql", s3_root, query, "--format", "json", source)) == found
    assert json.loads(ask("gc", s3_root, "--json"))["deleted"] == []


def test_credentials_reach_neither_the_store_nor_this_machine(s3_root: str, tmp_path: Path) -> None:
    writer = AttemptWriter.claim(s3_root, "s", "t", restored_step=0, restored_checkpoint=None, world_size=1)
    writer.step_metric(1, "a", "loss", 1.0)
    writer.close("done")
    write_document(s3_root, "s", "studies", [{"title": "t", "spec": {}, "spec_sha256": "1"}])
    with Ingester(s3_root) as ingester:
        ingester.run_once()
        ingester.publish()
    place = at(s3_root)
    keys = [*place.walk("segments"), *place.walk("documents"), "results.duckdb"]
    assert len(keys) >= 5
    kept = [place.read(key) for key in keys]
    kept += [p.read_bytes() for p in Path(os.environ["XDG_CACHE_HOME"]).rglob("*") if p.is_file()]
    secrets = (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"))
    assert not [s for s in secrets for content in kept if s.encode() in content]


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("s3://", "expected s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "expected s3://bucket/prefix"),
        ("s3://bucket/../other", "cannot be a step"),
        ("s3://bucket/x?endpoint=evil", "cannot be a step"),
        ("gs://bucket/x", "neither a folder nor a place in a bucket"),
    ],
)
def test_a_root_that_is_no_place_is_refused_by_validate(tmp_path: Path, root: str, words: str) -> None:
    study = fleet.write(tmp_path)
    study.write_text(study.read_text() + f'storage: {{root: "{root}"}}\n')
    found = CliRunner().invoke(main, ["validate", str(study)])
    assert found.exit_code == 3 and "E410" in found.output and words in found.output.replace("\n", " ")
