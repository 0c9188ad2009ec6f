"""Where a dataset's bytes lie, and what they are: files bundled by an installed package, found without importing it."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.plan.trial import digest


def bundled(package: str, relative: str) -> Path:
    """The path of a file inside an installed top-level package. The package's code does not run.

    Raises EnvironmentProblem when the package or the file is missing.
    """
    spec = importlib.util.find_spec(package)
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for place in places:
        if (place / relative).is_file():
            return place / relative
    raise EnvironmentProblem(
        f"the data file {package}/{relative} is not on this machine",
        notes=[f"looked in {', '.join(map(str, places)) or f'nothing: {package} is not installed'}"],
        help="reinstall scikit-learn: pip install --force-reinstall scikit-learn" if package == "sklearn" else None,
    )


@cache
def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read once per process."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fingerprint(recipe: int, params: Any, *files: Path) -> str:
    """What says "the same data": the bytes of the source files, the parameters, and ``recipe``, a number that is raised
    whenever the code that turns one into the other changes its result."""
    return digest({"recipe": recipe, "params": params, "files": [sha256(path) for path in files]})
