"""Five questions about one handwritten digit, of different kinds and scales."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from mtlfleet.datasets.base import ArraySamples, Dataset, Facts, Split, Task, dataset
from mtlfleet.datasets.files import bundled, fingerprint
from mtlfleet.datasets.multidigits import FILE, base_digits
from mtlfleet.datasets.splits import stratified

RECIPE = 1
NAMES = ("digit", "odd", "large", "ink", "tilt")


@dataset("digits_attr")
@dataclass(frozen=True, kw_only=True)
class DigitsAttr(Dataset):
    """Five questions about a real 8 x 8 digit: which, odd or not, 5 or more, how much ink, and on which side.

    Classification, two binary tasks and two regressions: losses of different scale on one small image.

    Shapes      inputs float32 ``[n, 1, 8, 8]`` in [0, 1]; digit int64, the others float32 ``[n]``; ink (the sum) and
                tilt (right half minus left half) in units of the training set's standard deviation.
    Source      Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (as bundled by scikit-learn).

    Parameters
    ----------
    tasks:      which of digit, odd, large, ink and tilt, in this order of meaning.
    data_seed:  of the 60/20/20 division, stratified by digit.
    """

    tasks: tuple[str, ...] = ("digit", "odd", "large", "ink", "tilt")
    data_seed: int = 7

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))  # JSON and YAML bring lists
        strange = [name for name in self.tasks if name not in NAMES]
        if strange or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(
                f"digits_attr: tasks are one or more of {', '.join(NAMES)}, each once; found {list(self.tasks)}"
            )

    def facts(self) -> Facts:
        rows = _rows(self.data_seed)
        train = rows[Split.TRAIN]
        sizes = {"val_size": len(rows[Split.VAL]), "test_size": len(rows[Split.TEST])}
        mark = fingerprint(RECIPE, asdict(self), bundled(*FILE))
        return Facts(tuple(self._task(name, train) for name in self.tasks), len(train), (1, 8, 8), mark, sizes)

    def _task(self, name: str, train: np.ndarray) -> Task:
        if name == "digit":
            return Task(name, 10, "classification", ("accuracy", "macro_f1"), 0.1)
        if name in ("ink", "tilt"):
            return Task(name, 1, "regression", ("rmse", "mae"), 1.0)
        share = float(_answers(self.data_seed)[name][train].mean())
        return Task(name, 1, "binary", ("accuracy", "auc", "f1"), max(share, 1 - share))

    def split(self, split: Split) -> ArraySamples:
        return _samples(self, split)


@cache
def _rows(data_seed: int) -> dict[Split, np.ndarray]:
    return stratified(base_digits()[1], (0.6, 0.2, 0.2), data_seed)


@cache
def _answers(data_seed: int) -> dict[str, np.ndarray]:
    images, labels = base_digits()
    train = _rows(data_seed)[Split.TRAIN]
    ink = images.sum((1, 2), dtype=np.float64)
    tilt = images[:, :, 4:].sum((1, 2), dtype=np.float64) - images[:, :, :4].sum((1, 2), dtype=np.float64)
    measured = {
        n: ((v - v[train].mean()) / v[train].std()).astype(np.float32) for n, v in (("ink", ink), ("tilt", tilt))
    }
    told = {"odd": (labels % 2).astype(np.float32), "large": (labels >= 5).astype(np.float32)}
    return {"digit": labels, **told, **measured}


@cache
def _samples(params: DigitsAttr, split: Split) -> ArraySamples:
    rows = _rows(params.data_seed)[split]
    return ArraySamples(base_digits()[0][rows][:, None], {n: _answers(params.data_seed)[n][rows] for n in params.tasks})
