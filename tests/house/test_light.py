"""Commands that only read stay instant: neither torch nor Ray is imported for them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mtlfleet.cli import COMMANDS
from mtlfleet.errors import FleetError

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "sklearn", "pandas")
PROBE = f"""
import json, sys
from mtlfleet.cli import main
try:
    code = main(sys.argv[1:], standalone_mode=True)
except SystemExit as leaving:
    code = leaving.code
sys.stderr.write("\\n" + json.dumps({{"code": code or 0, "heavy": [m for m in {HEAVY!r} if m in sys.modules]}}))
"""
STUDY = "jobs/studies/quickstart.yaml"
READING = {
    "validate": ["{study}"],
    "plan": ["{study}"],
    "status": ["{study}"],
    "sql": ["{study}", "select 1"],
    "claims": ["{study}"],
    "report": ["{study}"],
    "schema": [],
}


def run(*words: str) -> tuple[int, list[str], str]:
    """(exit code, heavy modules imported, everything it said)."""
    done = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=False)
    said, _, last = done.stderr.rpartition("\n")
    probe = json.loads(last)
    return probe["code"], probe["heavy"], done.stdout + said


def test_importing_the_package_is_light() -> None:
    packages = "mtlfleet, mtlfleet.plan, mtlfleet.store, mtlfleet_analysis"
    probe = f"import sys, {packages}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_is_light(words: list[str]) -> None:
    code, heavy, said = run(*words)
    assert code == 0 and said
    assert heavy == []


def test_the_reading_commands_exist() -> None:
    assert set(READING) <= set(COMMANDS)


@pytest.mark.parametrize("command", READING)
def test_reading_commands_are_light_before_the_first_trial(command: str, tmp_path: Path) -> None:
    """On a study that was never launched; what they answer is tested elsewhere, but never a traceback."""
    study = shutil.copy(ROOT / STUDY, tmp_path / "study.yaml")
    code, heavy, said = run(command, *(word.format(study=study) for word in READING[command]))
    assert code != FleetError.exit_code and "Traceback" not in said, said
    assert heavy == []
