"""A server that throttles, loses answers, refuses or is not there; and a machine without the extra."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import one_trial
import pytest
from click.testing import CliRunner

from mtlfleet.cli import main
from mtlfleet.errors import EnvironmentProblem
from mtlfleet.store import AttemptWriter, Store, claim_locks, register_claim, trial_state
from mtlfleet.store.bucket import Bucket
from mtlfleet.store.place import at

STUDY = one_trial.STUDY.replace("study: s", "study: tiny") + 'storage: {root: "ROOT"}\n'


def test_a_throttling_server_is_asked_again(s3_root: str, unreliable: Any) -> None:
    place = at(s3_root)
    for action in (
        lambda: place.put("documents/a", b"1"),
        lambda: place.put_new("documents/b", b"2"),
        lambda: place.read("documents/a"),
        lambda: place.names("documents"),
        lambda: place.delete(["documents/a"]),
    ):
        before, unreliable.throttled = unreliable.asked, 2
        action()
        assert unreliable.throttled == 0 and unreliable.asked - before >= 3
    assert place.names("documents") == ["b"]


def test_the_clock_alone_says_when_a_server_is_given_up(
    s3_root: str, unreliable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pauses drawn at random, a number of retries can be over in a twentieth of the time."""
    monkeypatch.setenv("MTLFLEET_OBJECT_RETRY_S", "60")
    unreliable.throttled = 12
    at(s3_root).put("documents/a", b"1")
    assert unreliable.throttled == 0 and at(s3_root).read("documents/a") == b"1"


def test_an_answer_that_breaks_off_is_asked_for_again(s3_root: str, unreliable: Any, tmp_path: Path) -> None:
    place = at(s3_root)
    assert isinstance(place, Bucket)
    place.put("documents/a", b"1" * 1000)
    actions: list[tuple[Callable[[], object], object]] = [
        (lambda: place.put("documents/b", b"2"), None),
        (lambda: place.put_new("documents/c", b"3"), True),
        (lambda: place.read("documents/a"), b"1" * 1000),
        (lambda: place.fetch("documents/a", tmp_path / "a") is None, False),
        (lambda: place.names("documents"), ["a", "b", "c"]),
        (lambda: list(place.walk("documents")), ["documents/a", "documents/b", "documents/c"]),
        (lambda: place.move(["documents/b"], "quarantine"), None),
        (lambda: place.delete(["documents/c"]), None),
    ]
    for action, answer in actions:
        unreliable.cut = 1
        assert action() == answer
        assert unreliable.cut == 0
    assert (tmp_path / "a").read_bytes() == b"1" * 1000
    assert place.names("documents") == ["a"] and place.read("quarantine/documents/b") == b"2"


def test_whoever_won_is_not_told_that_he_lost_when_the_answer_was_lost(s3_root: str, unreliable: Any) -> None:
    place = at(s3_root)
    unreliable.lost = 1
    assert place.put_new("segments/claim", b"mine")
    assert unreliable.lost == 0
    assert not place.put_new("segments/claim", b"yours") and place.read("segments/claim") == b"mine"
    unreliable.lost = 1
    _, created = register_claim(s3_root, "s", "c", {"registration": "abc"})
    assert created and len(claim_locks(s3_root, "s")) == 1


def test_a_lost_answer_makes_neither_two_attempts_nor_two_rows(s3_root: str, unreliable: Any) -> None:
    unreliable.lost = 1
    writer = AttemptWriter.claim(s3_root, "s", "t", restored_step=0, restored_checkpoint=None, world_size=1)
    assert writer.attempt == 1
    writer.step_metric(1, "a", "loss", 1.0)
    unreliable.lost = 1
    writer.flush()
    writer.step_metric(2, "a", "loss", 2.0)
    writer.close("done")
    assert trial_state(s3_root, "s", "t") == "done"
    found = Store(s3_root).rows("SELECT step, value FROM step_metrics ORDER BY step")
    assert found == [{"step": 1, "value": 1.0}, {"step": 2, "value": 2.0}]


def test_a_server_that_cannot_be_exclusive_is_not_used(s3_root: str, unreliable: Any, tmp_path: Path) -> None:
    at(s3_root).verify()
    unreliable.careless = True
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.replace("ROOT", s3_root))
    code, said = invoke("launch", study)
    assert code == 4 and "ignores `If-None-Match: *`" in said
    assert at(s3_root).names("") == []


def test_rows_outlive_an_outage(s3_root: str, unreliable: Any) -> None:
    writer = AttemptWriter.claim(s3_root, "s", "t", restored_step=0, restored_checkpoint=None, world_size=1)
    writer.step_metric(1, "a", "loss", 1.0)
    unreliable.up_for = 0
    before = unreliable.asked
    with pytest.raises(EnvironmentProblem, match="cannot write s3://") as caught:
        writer.flush()
    assert 2 <= unreliable.asked - before < 40  # it tried again, and it gave up
    assert caught.value.exit_code == 4
    unreliable.up_for = -1
    writer.step_metric(2, "a", "loss", 2.0)
    writer.close("done")
    assert Store(s3_root).rows("SELECT count(*) AS n FROM step_metrics") == [{"n": 2}]


def invoke(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(main, [str(word) for word in words])
    return found.exit_code, found.output.replace("\n", " ")


def test_without_a_server_commands_end_with_4_and_say_where_they_looked(
    s3_root: str, unreliable: Any, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.replace("ROOT", s3_root))
    unreliable.up_for = 0
    for words in (("launch", study), ("status", study), ("sql", s3_root, "SELECT 1"), ("digest", study)):
        code, said = invoke(*words)
        assert code == 4 and unreliable.address in said and "AWS_ENDPOINT_URL" in said, said


def test_a_bucket_that_is_not_there_and_http_without_leave(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = invoke("status", "s3://no-such-bucket-at-all/x")
    assert code == 4 and "no such bucket" in said
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    code, said = invoke("status", f"{s3_root}/other")
    assert code == 4 and "AWS_ALLOW_HTTP=true" in said


def test_without_the_extra_the_error_names_the_command(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "from mtlfleet.cli import main; main(['status', 's3://bucket/prefix'])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 4
    assert "pip install 'mtlfleet[s3]'" in found.stderr and "Traceback" not in found.stderr
