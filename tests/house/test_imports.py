"""Who may import whom: kept, and noticed when broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = ("The floors", "The statistician needs no GPU", "Ray stays in launch", "No method knows another")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter's verdict on the packages under ``root``."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "analysis")]), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=root, env=paths, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("mtlfleet", "analysis"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    return tmp_path


def test_all_contracts_are_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert all(f"{contract} KEPT" in done.stdout for contract in CONTRACTS)


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("mtlfleet/registry.py", "import mtlfleet.plan.trial", CONTRACTS[0]),
        ("mtlfleet/engine/layout.py", "import mtlfleet.train.run", CONTRACTS[0]),
        ("mtlfleet/plan/tasks.py", "import torch", CONTRACTS[1]),
        ("analysis/mtlfleet_analysis/pairing.py", "import mtlfleet.methods.base", CONTRACTS[1]),
        ("mtlfleet/train/run.py", "import ray", CONTRACTS[2]),
        ("mtlfleet/methods/gram/mgda.py", "import mtlfleet.methods.gram.pcgrad", CONTRACTS[3]),
    ],
)
def test_a_broken_contract_is_noticed(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    done = lint(copy)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout
