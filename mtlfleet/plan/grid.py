"""Which cells a study has."""

from __future__ import annotations

from mtlfleet.plan.schema import StudyFile


def included(file: StudyFile, method: str, dataset: str, architecture: str) -> bool:
    """Whether a cell is in the grid: everything but what ``exclude`` names, plus what ``include`` names."""
    here = (method, dataset, architecture)
    return not any(r.matches(*here) for r in file.exclude) or any(r.matches(*here) for r in file.include)
