"""What `pip install mtlfleet` puts on a machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"mtlfleet": ROOT / "mtlfleet", "mtlfleet_analysis": ROOT / "analysis" / "mtlfleet_analysis"}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The wheel's files, built offline from a copy, so that the working tree stays as it is."""
    here = tmp_path_factory.mktemp("wheel")
    source = here / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    for name in ("mtlfleet", "analysis", "jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(here / "dist"), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (here / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_nothing_but_our_two_packages_becomes_importable(members: set[str]) -> None:
    top = {name.partition("/")[0] for name in members}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_every_file_of_the_packages_is_inside(members: set[str]) -> None:
    """Code, queries, templates and type markers alike: what runs from the tree runs from the wheel."""
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected <= members, sorted(expected - members)
    assert {"mtlfleet/py.typed", "mtlfleet_analysis/py.typed"} <= expected
    assert {Path(name).suffix for name in expected} >= {".py", ".sql", ".html"}


def test_the_licence_and_the_command_come_along(members: set[str]) -> None:
    names = {name.partition(".dist-info/")[2] for name in members if ".dist-info/" in name}
    assert {"entry_points.txt", "licenses/LICENSE"} <= names
