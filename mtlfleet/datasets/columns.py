"""Columns of a table as numbers, fitted on the training rows only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from mtlfleet.errors import EnvironmentProblem


def read_csv(path: Path, *, header: bool) -> pa.Table:
    """Every column as text, spaces around values cut. Raises EnvironmentProblem for a file that is no table."""
    try:
        names = None if header else [f"c{i}" for i in range(path.read_text().partition("\n")[0].count(",") + 1)]
        options = pacsv.ReadOptions(column_names=names)
        width = pacsv.open_csv(path, read_options=options).schema.names
        types = dict.fromkeys(width, pa.string())
        return pacsv.read_csv(path, read_options=options, convert_options=pacsv.ConvertOptions(column_types=types))
    except (OSError, pa.ArrowInvalid, StopIteration, UnicodeDecodeError) as error:
        raise EnvironmentProblem(f"{path}: {error}") from None


def text(table: pa.Table, column: str) -> np.ndarray:
    """A column's values without the spaces around them."""
    return np.char.strip(np.asarray(table[column].to_pylist(), dtype=str))


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """A column as float64. Raises EnvironmentProblem naming the first value that is no number."""
    values = text(table, column)
    try:
        return values.astype(np.float64)
    except ValueError as error:
        raise EnvironmentProblem(f"column {column}: {error}") from None


def categories(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Places in the sorted training values, from 1; 0 for a value that training never saw."""
    known = np.unique(train)
    found = []
    for values in (train, *others):
        place = np.searchsorted(known, values).clip(max=len(known) - 1)
        found.append(np.where(known[place] == values, place + 1, 0).astype(np.float32))
    return found


def standard(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """In units of the training values' standard deviation, from their mean; a constant column becomes zeros."""
    mean, spread = train.mean(), train.std() or 1.0
    return [((values - mean) / spread).astype(np.float32) for values in (train, *others)]


def joined(columns: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Columns given as (train, val, test) each -> the three matrices [n, columns]."""
    return [np.stack(part, 1) for part in zip(*columns, strict=True)]
