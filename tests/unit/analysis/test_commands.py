"""``mtlfleet claims`` and ``mtlfleet report`` as their users meet them."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtlfleet.cli import main
from mtlfleet.store import claim_locks
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.loading import Asked

SMOKE = Path(__file__).parents[3] / "jobs" / "studies" / "smoke.yaml"
Stored = tuple[Evidence, Any, Asked]


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(args=[str(a) for a in args])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def test_verdicts_are_quotable_within_eighty_columns(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    _, store, _ = stored
    code, out, err = run(capsys, "claims", store.root)
    assert (code, err) == (0, "")
    assert "up: ✓ supported" in out
    assert "pcgrad improves on ls by" in out.replace("\n  ", " ")
    assert out.rstrip().endswith("2 claims: 2 supported")
    assert max(map(len, out.splitlines())) <= 80
    assert store.sql("SELECT * FROM verdicts").num_rows == 2


def test_json_is_one_object_with_the_whole_row(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "claims", stored[1].root, "--json")
    found = json.loads(out)
    assert (code, found["schema"]) == (0, "mtlfleet/claims/1")
    assert [v["claim_id"] for v in found["verdicts"]] == ["best", "up"]
    assert len(found["verdicts"][0]["detail"]["pairs"]) == 6


def test_explain_shows_design_choice_and_other_analyses(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "claims", stored[1].root, "--explain", "best")
    assert code == 0
    for part in ("locked @1", "tuning runs", "on validation", "Wilcoxon signed-rank", "without digits", "digits"):
        assert part in out
    code, _, err = run(capsys, "claims", stored[1].root, "--explain", "bets")
    assert code == 2
    assert "did you mean `best`?" in err


def test_check_passes_only_what_was_locked_and_is_supported(
    stored: Stored, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = stored[1]
    assert run(capsys, "claims", store.root, "--check")[0] == 0
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    shutil.rmtree(copy / "claims")
    code, _, err = run(capsys, "claims", copy, "--check")
    assert code == 6
    assert "no claim is locked" in err


def test_check_fails_for_a_locked_claim_that_is_not_supported(
    stored: Stored, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The same store after a final run was lost: the claim is invalid now, and says why."""
    evidence, store, _ = stored
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    lost = next(r for r in evidence.phase("final") if r.method == "pcgrad")
    shutil.rmtree(copy / "segments" / f"study={evidence.study}" / f"trial={lost.trial}")
    for derived in (copy / "results.duckdb", *copy.glob(".work-*")):
        derived.unlink(missing_ok=True)
    code, out, err = run(capsys, "claims", copy, "--check")
    assert code == 6
    assert "5 of 6 pairs are complete" in out.replace("\n  ", " ")
    assert "not supported: best, up" in err


def test_locking_needs_no_run_and_is_idempotent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = tmp_path / "smoke.yaml"
    study.write_text(SMOKE.read_text())
    code, out, _ = run(capsys, "claims", study, "--lock")
    assert (code, out.split()) == (0, ["locked", "pcgrad-beats-ls"])
    assert run(capsys, "claims", study, "--lock")[1].split() == ["unchanged", "pcgrad-beats-ls"]
    study.write_text(SMOKE.read_text().replace("margin: 1.0", "margin: 2.0"))
    assert run(capsys, "claims", study, "--lock")[1].split() == ["locked", "pcgrad-beats-ls"]
    locks = claim_locks(tmp_path / "runs" / "smoke", "smoke")
    assert [(k["number"], k["payload"]["claim"]["margin"]) for k in locks] == [(1, 1.0), (2, 2.0)]
    assert [k["payload"]["final_runs_before"] for k in locks] == [0, 0]


def test_options_that_exclude_each_other(capsys: pytest.CaptureFixture[str], stored: Stored) -> None:
    code, _, err = run(capsys, "claims", stored[1].root, "--check", "--lock")
    assert code == 2
    assert "exclude each other" in err


def test_report_goes_where_it_is_told(stored: Stored, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "deep" / "page.html"
    code, out, _ = run(capsys, "report", stored[1].root, "-o", target)
    assert (code, out.split()) == (0, [str(target), str(target.with_suffix(".figures.json"))])
    assert target.read_text().startswith("<!doctype html>")
    code, out, _ = run(capsys, "report", stored[1].root, "-o", target, "--json")
    assert json.loads(out)["bytes"] == target.stat().st_size
    blocked = tmp_path / "file"
    blocked.write_text("")
    code, _, err = run(capsys, "report", stored[1].root, "-o", blocked / "page.html")
    assert code == 4
    assert "cannot write" in err


def test_watching_writes_the_page_again_and_ends_with_the_study(
    growing: tuple[Path, Callable[[], None]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root, grow = growing
    page, seen = tmp_path / "page.html", {}

    def grow_when_drawn() -> None:
        deadline = time.monotonic() + 60
        while not page.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        seen["first"] = page.read_text()
        grow()

    runs = threading.Thread(target=grow_when_drawn)
    runs.start()
    code, out, err = run(capsys, "report", root, "-o", page, "--watch", "--every", "1")
    runs.join()
    first, *_, last = err.splitlines()
    trials = last.split("  ")[1].removesuffix(" trials").split("/")
    assert code == 0
    assert trials[0] == trials[1]
    assert first == f"{page}  {int(trials[1]) - 2}/{trials[1]} trials"
    assert out.split()[0] == str(page)
    assert "a planned final run" in seen["first"] or "owed" in seen["first"]
    assert "pcgrad improves on ls" not in seen["first"]
    assert "pcgrad improves on ls" in page.read_text()
