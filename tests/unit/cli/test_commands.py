"""The command line as its users meet it: words in, text and an exit code out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from mtlfleet.cli import COMMANDS, HELP, failure, main, output
from mtlfleet.errors import EnvironmentProblem
from mtlfleet.plan import Study
from mtlfleet.plan.codes import CODES
from mtlfleet.store import AttemptWriter

SMOKE = Path(__file__).parents[3] / "jobs" / "studies" / "smoke.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a valid study and one with two mistakes."""
    text = SMOKE.read_text(encoding="utf-8")
    (tmp_path / "study.yaml").write_text(text)
    (tmp_path / "wrong.yaml").write_text(text.replace("use: pcgrad", "use: pcgard").replace("lr: 1e-2", "lr: fast"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return tmp_path


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, words, env=environment)


def document(*words: str) -> dict[str, Any]:
    result = run(*words)
    loaded = json.loads(result.stdout)
    assert isinstance(loaded, dict)
    return loaded


def process(*words: str, **extra: Any) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from mtlfleet.cli import main; main()", *words]
    return subprocess.run(program, capture_output=True, text=True, check=False, **extra)


def test_validate_says_yes_on_stdout_and_no_on_stderr(folder: Path) -> None:
    good, bad = run("validate", "study.yaml"), run("validate", "wrong.yaml")
    assert (good.exit_code, good.stdout, good.stderr) == (0, "study.yaml: valid\n", "")
    assert (bad.exit_code, bad.stdout) == (3, "")
    assert [*re.findall(r"error\[(E\d+)\]", bad.stderr)] == ["E301", "E105"] and bad.stderr.endswith("2 errors\n")


def test_validate_as_json(folder: Path) -> None:
    found = document("validate", "wrong.yaml", "--json")
    assert (found["schema"], found["valid"], found["errors"]) == ("mtlfleet/validate/1", False, 2)
    first = found["diagnostics"][0]
    assert (first["code"], first["line"], first["path"]) == ("E301", 10, "wrong.yaml")
    assert "did you mean `pcgrad`?" in first["caret"]
    assert document("validate", "study.yaml", "--json")["valid"] is True


def test_annotations_for_github(folder: Path) -> None:
    result = run("validate", "wrong.yaml", GITHUB_ACTIONS="true")
    assert "::error file=wrong.yaml,line=10,col=17,title=E301::no method is called `pcgard`" in result.stderr


def test_a_study_that_is_not_there(folder: Path) -> None:
    result = run("validate", "stduy.yaml")
    assert result.exit_code == 2 and "no such study file: stduy.yaml" in result.stderr
    assert "did you mean `study.yaml`?" in result.stderr
    assert run("plan", ".").exit_code == 2


def test_plan_counts_every_trial(folder: Path) -> None:
    found = document("plan", "study.yaml", "--json")
    assert found["total"] == {"tune": 12, "final": 20, "done": 0, "missing": 32}
    rows = {row["method"]: (row["configurations"], row["tune"], row["final"]) for row in found["cells"]}
    assert rows == {"stl": (3, 6, 10), "ls": (3, 3, 5), "pcgrad": (3, 3, 5)}
    text = run("plan", "study.yaml").stdout
    assert "32 trials = 12 tuning + 20 final; 0 done, 32 to run" in text
    assert "claim pcgrad-beats-ls: superiority of pcgrad over ls, margin 1 percentage points" in text


def test_plan_knows_what_has_run(folder: Path) -> None:
    study = Study.load("study.yaml")
    tune, *_ = (t for t in study.tune_trials() if t.method.name == "ls")
    cell = next(c for c in study.cells() if c.method == "pcgrad")
    final = study.trial(cell, 1, study.seeds[0], "final")
    for trial, state in ((tune, "done"), (final, "diverged")):
        writer = AttemptWriter.claim(
            study.root, study.name, trial.id, restored_step=0, restored_checkpoint=None, world_size=1, facts={}
        )
        writer.close(state, "", 40, 1.0, 1.0)
    found = document("plan", "study.yaml", "--json")
    assert found["total"] == {"tune": 12, "final": 20, "done": 2, "missing": 30}
    assert {row["method"]: row["done"] for row in found["cells"]} == {"stl": 0, "ls": 1, "pcgrad": 1}


def test_plan_warns_of_designs_that_cannot_answer(folder: Path) -> None:
    Path("few.yaml").write_text(Path("study.yaml").read_text().replace("count: 5", "count: 3"))
    result = run("plan", "few.yaml")
    assert result.exit_code == 0 and "warning[W501]" in result.stderr and "can never be supported" in result.stderr
    assert document("plan", "few.yaml", "--json")["warnings"][0]["code"] == "W501"


def test_plan_of_a_wrong_study_names_its_mistakes(folder: Path) -> None:
    result = run("plan", "wrong.yaml")
    assert result.exit_code == 3 and "error[E301]" in result.stderr and "Traceback" not in result.stderr


def test_working_in_another_folder(folder: Path) -> None:
    (folder / "deeper").mkdir()
    os.chdir(folder / "deeper")
    assert run("-C", "..", "validate", "study.yaml").exit_code == 0
    refused = run("-C", "nowhere", "validate", "study.yaml")
    assert refused.exit_code == 2 and "cannot work in nowhere" in refused.stderr


@pytest.mark.parametrize(
    ("options", "environment", "colored"),
    [
        ((), {}, False),
        ((), {"FORCE_COLOR": "1"}, True),
        ((), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (("--color", "always"), {"NO_COLOR": "1"}, True),
        (("--color", "never"), {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colour(folder: Path, options: tuple[str, ...], environment: dict[str, str], colored: bool) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    done = process(*options, "validate", "wrong.yaml", env={**clean, **environment})
    assert done.returncode == 3 and ("\x1b[" in done.stderr) is colored


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_explained(code: str) -> None:
    result = run("explain", code.lower())
    assert result.exit_code == 0 and result.stdout.startswith(f"{code}: ") and "\n    " in result.stdout


def test_explain_lists_and_suggests() -> None:
    assert all(code in run("explain").stdout for code in CODES)
    unknown = run("explain", "E1044")
    assert unknown.exit_code == 2 and "did you mean `E104`?" in unknown.stderr
    assert document("explain", "E201", "--json")["title"] == CODES["E201"].title


@pytest.mark.parametrize(
    ("kind", "name", "word"),
    [
        ("methods", "cagrad", "cagrad@nash"),
        ("datasets", "multidigits", "input_shape"),
        ("architectures", "hps", "backbone"),
    ],
)
def test_citizens_are_listed_and_shown(kind: str, name: str, word: str) -> None:
    assert name in run(kind, "list").stdout and word in run(kind, "show", name).stdout
    listed = document(kind, "list", "--json")
    assert name in [entry["name"] for entry in listed[kind]] and listed["schema"] == f"mtlfleet/{kind}/1"
    shown = document(kind, "show", name, "--json")
    assert shown["name"] == name and shown["parameters"] and shown["docstring"]
    lost = run(kind, "show", name[:-1])
    assert lost.exit_code == 3 and f"did you mean `{name}`?" in lost.stderr


def test_the_schema_is_printed_or_written(folder: Path) -> None:
    printed = json.loads(run("schema").stdout)
    assert run("schema", "-o", "s.json").exit_code == 0
    assert json.loads(Path("s.json").read_text(encoding="utf-8")) == printed
    assert run("schema", "-o", "nowhere/s.json").exit_code == EnvironmentProblem.exit_code


def test_help_names_every_command_and_its_own_short_help() -> None:
    text = run("--help").stdout
    assert all(re.search(rf"^  {name} ", text, re.M) for name in COMMANDS)
    assert set(HELP) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there(name: str) -> None:
    assert isinstance(import_module(COMMANDS[name]).command, click.Command)


def test_a_misspelt_command() -> None:
    result = run("valdate")
    assert result.exit_code == 2 and "Did you mean `validate`?" in result.stderr


def test_versions_come_from_metadata() -> None:
    assert re.match(r"mtlfleet \d+\.\d+\.\d+ \(torch \d", run("--version").stdout)
    assert set(document("version", "--json")["versions"]) >= {"mtlfleet", "torch", "ray", "duckdb"}


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["validate", "study.yaml"], ["plan", "study.yaml"], ["methods", "list"],
              ["datasets", "list"], ["explain", "E104"], ["schema"]],
    ids=" ".join,
)  # fmt: skip
def test_light_commands_load_neither_torch_nor_ray(folder: Path, words: list[str]) -> None:
    probe = (
        "import sys\nfrom mtlfleet.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as leaving:\n    assert not leaving.code\n"
        "assert not {'torch', 'ray', 'duckdb'} & set(sys.modules), 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    command = f"'{sys.executable}' -c 'from mtlfleet.cli import main; main()' schema | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == "" and len(done.stdout) == 10


def broken() -> object:
    raise ZeroDivisionError("a bug of \x1b]0;ours\x07")


def test_a_bug_becomes_a_crash_file_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(output, "settings", output.Settings())
    assert failure.guarded(broken) == 70
    said = capsys.readouterr().err
    (crash,) = tmp_path.glob("mtlfleet-crash-*.txt")
    assert "Traceback" not in said and "\x1b" not in said and str(crash) in said
    assert "ZeroDivisionError" in crash.read_text() and "torch: " in crash.read_text()


def test_interruption_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> object:
        raise click.exceptions.Abort

    assert failure.guarded(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_tables_are_aligned_and_clean() -> None:
    text = output.table(("name", "n"), [("a\x1b[2J", 1), ("long name", 200)], right=("n",))
    assert text.splitlines() == ["name         n", "a\ufffd[2J        1", "long name  200"]
