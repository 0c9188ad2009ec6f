"""A real table with an auxiliary question: inputs as outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from mtlfleet.datasets.base import ArraySamples, Dataset, Facts, Split, Task, dataset
from mtlfleet.datasets.files import bundled, fingerprint
from mtlfleet.datasets.splits import draws, stratified

RECIPE = 1
FILE = ("sklearn", "datasets/data/breast_cancer.csv")
SHARES = (0.6, 0.2, 0.2)
MEANS = slice(0, 10)  # the ten cell measurements, averaged over an image's nuclei
WORST = {"worst_radius": 20, "worst_texture": 21, "worst_area": 23}  # of the three largest nuclei
NOISE = "noise"  # nothing to learn: a control
NAMES = ("malignant", *WORST, NOISE)


@cache
def table() -> np.ndarray:
    """float64 [569, 31]: ten means, ten standard errors, ten worst values, and 1 for benign."""
    return np.loadtxt(bundled(*FILE), delimiter=",", skiprows=1)


@dataset("breast_aux")
@dataclass(frozen=True, kw_only=True)
class BreastAux(Dataset):
    """Tell malignant from benign, and predict measurements left out of the inputs: 569 patients, up to five tasks.

    ``malignant`` is judged by accuracy, not error: with 115 test patients a good error is a handful of patients and may
    be zero, so that percent changes against it explode, while accuracies near 0.95 give steady ones. The ``worst_*``
    tasks are in units of the training set's standard deviation, so that 1 is what its mean would get. ``noise`` is a
    control with nothing to learn: standard normal draws that no input tells, whose best error is 1.

    Math        columns standardised with the mean and standard deviation of the training rows only.
    Shapes      inputs float32 ``[n, 10]``; malignant float32 ``[n]`` in {0, 1}; the others float32 ``[n]``.
    Source      Street, Wolberg & Mangasarian, Nuclear feature extraction for breast tumor diagnosis, 1993 (Wisconsin
                Diagnostic table, as bundled by scikit-learn); the idea: Caruana & de Sa, Promoting Poor Features to
                Supervisors, NIPS 1996.

    Parameters
    ----------
    tasks:      two or more of malignant, worst_radius, worst_texture, worst_area, noise (one is allowed, for tests).
    data_seed:  of the 60/20/20 division, stratified by diagnosis.
    """

    tasks: tuple[str, ...] = ("malignant", "worst_texture")
    data_seed: int = 7

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))  # JSON and YAML bring lists
        strange = [name for name in self.tasks if name not in NAMES]
        if strange or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(
                f"breast_aux: tasks are one or more of {', '.join(NAMES)}, each once; found {list(self.tasks)}"
            )

    def facts(self) -> Facts:
        rows = _rows(self.data_seed)
        sizes = {"val_size": len(rows[Split.VAL]), "test_size": len(rows[Split.TEST])}
        mark = fingerprint(RECIPE, asdict(self), bundled(*FILE))
        return Facts(tuple(map(self._task, self.tasks)), len(rows[Split.TRAIN]), (10,), mark, sizes)

    def _task(self, name: str) -> Task:
        if name != "malignant":
            return Task(name, 1, "regression", ("rmse",), 1.0)
        benign = float(table()[_rows(self.data_seed)[Split.TRAIN], -1].mean())
        return Task(name, 1, "binary", ("accuracy",), max(benign, 1 - benign))

    def split(self, split: Split) -> ArraySamples:
        return _samples(self, split)


@cache
def _rows(data_seed: int) -> dict[Split, np.ndarray]:
    return stratified(table()[:, -1], SHARES, data_seed)


@cache
def _samples(params: BreastAux, split: Split) -> ArraySamples:
    rows = _rows(params.data_seed)
    known = table()[rows[Split.TRAIN]]
    scaled = ((table() - known.mean(0)) / known.std(0))[rows[split]].astype(np.float32)
    malignant = (1 - table()[rows[split], -1]).astype(np.float32)
    drawn = draws(params.data_seed, NOISE).standard_normal(len(table())).astype(np.float32)[rows[split]]
    known_targets = {
        "malignant": malignant,
        NOISE: drawn,
        **{name: scaled[:, column] for name, column in WORST.items()},
    }
    targets = {name: known_targets[name] for name in params.tasks}
    return ArraySamples(np.ascontiguousarray(scaled[:, MEANS]), targets)
