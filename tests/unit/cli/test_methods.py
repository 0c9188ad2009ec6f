"""``mtlfleet methods check`` on methods of ours and of others; the documentation page that the catalogue makes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mtlfleet import methods
from mtlfleet.cli import main
from mtlfleet.registry import Catalogue

ROOT = Path(__file__).parents[3]
TILT = '''
from dataclasses import dataclass
from typing import ClassVar
from mtlfleet.methods.base import Decision, LossWeighting, Weights, method

@method("tilt")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt(LossWeighting[None]):
    """Weights that grow with the loss.

    Properties  permutation
    """

    power: float = 1.0
    presets: ClassVar[dict[str, dict[str, float]]] = {"square": {"power": 2.0}}

    def weigh(self, losses, state, at):
        return Decision(Weights(BODY), None)
'''


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_a_method_of_ours_keeps_its_contracts() -> None:
    result = run("methods", "check", "rlw@native")
    assert result.exit_code == 0 and result.stdout.count(" kept") == 8
    lost = run("methods", "check", "rwl")
    assert lost.exit_code == 3 and "did you mean `rlw`?" in lost.stderr


def test_a_file_with_a_method_and_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tilt.py").write_text(TILT.replace("BODY", "losses**self.power"))
    found = json.loads(run("methods", "check", "./tilt.py", "--json").stdout)
    assert found["kept"] and found["methods"] == ["tilt", "tilt@square"]
    assert {"finite", "round_trip", "permutation"} <= {each["contract"] for each in found["contracts"]}


@pytest.mark.parametrize(
    ("body", "contract", "said"),
    [
        ("-losses", "one_task", "times the only gradient"),
        ("losses / at.number", "finite", "update"),
        ("__import__('torch').rand(len(losses), dtype=losses.dtype)", "same_seed", "two runs with one seed differ"),
        ("missing", "finite", r"NameError: .*\(tilt.py:\d+\)"),
    ],
)
def test_broken_contracts_are_told_with_what_was_seen(
    body: str, contract: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tilt.py").write_text(TILT.replace("BODY", body))
    result = run("methods", "check", "tilt.py")
    assert result.exit_code == 3
    row = next(line for line in result.stdout.splitlines() if line.split()[:2] == ["tilt", contract])
    assert "BROKEN" in row
    assert re.search(said, row), row


def test_files_that_cannot_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.py").write_text("x = 1\n")
    Path("wrong.py").write_text(TILT.replace("BODY", "losses").replace("permutation", "convexity"))
    for file, said in (("empty.py", "declares no method"), ("gone.py", "not found"), ("wrong.py", "convexity")):
        result = run("methods", "check", file)
        assert result.exit_code == 3 and said in result.stderr, result.stderr


def test_a_package_brings_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of somebody else's package, nothing of ours touched: found, built, and trained with by the engine."""
    package = tmp_path / "mylab_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tilt.py").write_text(TILT.replace("BODY", "losses**self.power"))
    monkeypatch.syspath_prepend(str(tmp_path))
    result = run("methods", "check", "mylab_methods.tilt")
    assert result.exit_code == 0, result.output
    built = Catalogue(plugins=("mylab_methods.tilt",)).load("method", "tilt")(power=2.0)
    assert type(built).__module__ == "mylab_methods.tilt"
    sys.modules.pop("mylab_methods.tilt")


def test_the_page_is_up_to_date() -> None:
    result = run("methods", "list", "--markdown")
    assert result.exit_code == 0
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page == result.stdout, "run `mtlfleet methods list --markdown > docs/methods.md`"


def test_the_page_names_everything() -> None:
    page = run("methods", "list", "--markdown").stdout
    for name in methods.names():
        assert f"\n### {name}\n" in page, name
    assert "float >= 0, < 1" in page and "`cagrad@nash` sets" in page and ":math:" not in page
    assert run("datasets", "list", "--markdown").exit_code == 2


# A plug-in of each kind, whose last line makes its update; SIGN is what a broken one gets wrong.
KINDS = {
    "loss": ("LossWeighting[None]", "def weigh(self, losses, state, at):", "Decision(Weights(SIGN * losses), None)"),
    "gram": (
        "GramWeighting[None]",
        "def weigh(self, gram, losses, state, at):",
        "Decision(Weights(SIGN / (1 + gram.diagonal())), None)",
    ),
    "rows": (
        "Elementwise[None]",
        "def merge(self, rows, columns, state, at):",
        "(SIGN * rows.abs().mean(0) * rows.sum(0).sign(), None)",
    ),
    "representation": (
        "RepresentationWeighting[None]",
        "def weigh(self, gram, losses, state, at):",
        "Decision(Weights(SIGN / (1 + gram.diagonal())), None)",
    ),
    "batches": (
        "OwnStep[None]",
        "batches: ClassVar[int] = 3\n\n    def step(self, grads, state, at):",
        "(grads.apply(Weights(SIGN / (1 + grads.cross_gram(0, 1).diagonal().abs()))), (None, 'ok'))[1]",
    ),
    "outer": (
        "LossWeighting[Seen]",
        """outer_batches: ClassVar[int] = 1

    def init(self, tasks):
        return Seen(torch.ones(tasks, dtype=torch.float64))

    def look_ahead(self, ahead, state, at):
        return Seen(state.weights * 0.9)

    def weigh(self, losses, state, at):""",
        "Decision(Weights(SIGN * state.weights), state)",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugin_of_each_kind_is_checked(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check serves what each looks at: losses, Gram, rows, representation, several batches, an outer batch."""
    monkeypatch.chdir(tmp_path)
    base, head, made = KINDS[kind]
    source = f'''
from dataclasses import dataclass
from typing import ClassVar
import torch
from mtlfleet.methods.base import *
from mtlfleet.methods.base import Decision, method

@dataclass(frozen=True, eq=False)
class Seen:
    weights: torch.Tensor

@method("one_of_{kind}")
@dataclass(frozen=True, kw_only=True)
class Method(({base})):
    """A plug-in that looks at {kind}.

    Properties  permutation
    """

    {head}
        return {made}
'''
    Path("sound.py").write_text(source.replace("SIGN", "1.0"))
    sound = run("methods", "check", "sound.py", "--json")
    found = json.loads(sound.stdout)
    assert found["kept"], [each for each in found["contracts"] if not each["kept"]]
    assert len(found["contracts"]) == 9
    Path("broken.py").write_text(source.replace("SIGN", "-1.0"))
    broken = run("methods", "check", "broken.py", "--json")
    assert broken.exit_code == 3
    assert "one_task" in {each["contract"] for each in json.loads(broken.stdout)["contracts"] if not each["kept"]}
