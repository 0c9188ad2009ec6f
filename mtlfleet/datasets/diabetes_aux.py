"""A small real table of regressions."""

from __future__ import annotations

import gzip
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from mtlfleet.datasets.base import ArraySamples, Dataset, Facts, Split, Task, dataset
from mtlfleet.datasets.files import bundled, fingerprint
from mtlfleet.datasets.splits import draws

RECIPE = 1
FILES = (("sklearn", "datasets/data/diabetes_data_raw.csv.gz"), ("sklearn", "datasets/data/diabetes_target.csv.gz"))
ASIDE = {"bp": 3, "s5": 8}  # measurements that are predicted instead of read


@cache
def table() -> tuple[np.ndarray, np.ndarray]:
    """(measurements float64 [442, 10], progression float64 [442])."""
    found = []
    for file in FILES:
        with gzip.open(bundled(*file), "rt") as lines:
            found.append(np.loadtxt(lines))
    return found[0], found[1]


@dataset("diabetes_aux")
@dataclass(frozen=True, kw_only=True)
class DiabetesAux(Dataset):
    """Predict the progression of diabetes after a year, and two measurements left out of the inputs: 442 patients.

    Math        columns and targets standardised with the mean and standard deviation of the training rows only.
    Shapes      inputs float32 ``[n, 8]``; targets float32 ``[n]``.
    Source      Efron, Hastie, Johnstone & Tibshirani, Least Angle Regression, 2004 (as bundled by scikit-learn).

    Parameters
    ----------
    data_seed:  of the 60/20/20 division.
    """

    data_seed: int = 7

    def facts(self) -> Facts:
        rows = _rows(self.data_seed)
        tasks = tuple(Task(name, 1, "regression", ("rmse", "r2"), 1.0) for name in ("progression", *ASIDE))
        sizes = {"val_size": len(rows[Split.VAL]), "test_size": len(rows[Split.TEST])}
        mark = fingerprint(RECIPE, asdict(self), *(bundled(*file) for file in FILES))
        return Facts(tasks, len(rows[Split.TRAIN]), (8,), mark, sizes)

    def split(self, split: Split) -> ArraySamples:
        return _samples(self, split)


@cache
def _rows(data_seed: int) -> dict[Split, np.ndarray]:
    order = draws(data_seed, "split").permutation(442)
    return dict(zip(Split, (np.sort(part) for part in np.split(order, [265, 353])), strict=True))


@cache
def _samples(params: DiabetesAux, split: Split) -> ArraySamples:
    rows = _rows(params.data_seed)
    every = np.column_stack(table())
    known = every[rows[Split.TRAIN]]
    scaled = ((every - known.mean(0)) / known.std(0))[rows[split]].astype(np.float32)
    targets = {"progression": scaled[:, 10], **{name: scaled[:, column] for name, column in ASIDE.items()}}
    return ArraySamples(np.delete(scaled, [10, *ASIDE.values()], axis=1), targets)
