"""Regression tasks whose agreement is known, because it was put in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from mtlfleet.datasets.base import ArraySamples, Dataset, Facts, Split, Task, dataset
from mtlfleet.datasets.files import fingerprint
from mtlfleet.datasets.splits import draws

RECIPE = 1
FEATURES = 32  # of the mlp teacher


@dataset("synthetic_regression")
@dataclass(frozen=True, kw_only=True)
class SyntheticRegression(Dataset):
    r"""K regressions on shared features, whose targets correlate as ``conflict`` says: seconds to train, truth known.

    Math        Features :math:`\phi(x)` are x itself or :math:`\tanh(W x)`, whitened on the training rows. Task t's
                target is :math:`u_t \cdot \phi(x) + \sigma \epsilon`, scaled to unit variance on the training rows,
                with unit vectors of pairwise cosine :math:`\rho = 1 - c\,K/(K-1)`: 1 at conflict c = 0, orthogonal at
                (K-1)/K, and at c = 1 as opposed as K vectors can be (-1 for two). A model that answers all tasks with
                one output has gradients of that cosine; one head per task can undo the conflict as far as the trunk's
                width allows.
    Shapes      inputs float32 ``[n, dim]``, standard normal; targets float32 ``[n]`` for ``task_0`` ... ``task_{K-1}``.
    Source      ours; the simplex of targets as in neural-collapse analyses (Papyan, Han & Donoho, PNAS 2020).

    Parameters
    ----------
    tasks:      K, 2 or more (1 is allowed, for tests); at most the number of features.
    conflict:   c in [0, 1].
    noise:      standard deviation sigma of the noise, in units of the noiseless target's.
    teacher:    ``linear`` (``dim`` features) or ``mlp`` (32 features).
    train, val, test:  sizes; train at least twice the number of features, so that whitening is well posed.
    data_seed:  of everything drawn; not the trial's seed.
    """

    tasks: int = 2
    conflict: float = 0.5
    noise: float = 0.1
    dim: int = 16
    teacher: str = "linear"
    train: int = 1024
    val: int = 256
    test: int = 512
    data_seed: int = 7

    def __post_init__(self) -> None:
        checks = (
            (self.teacher in ("linear", "mlp"), f"teacher is linear or mlp, found {self.teacher!r}"),
            (0 <= self.conflict <= 1, f"conflict must be in [0, 1], found {self.conflict}"),
            (self.noise >= 0, f"noise must not be negative, found {self.noise}"),
            (
                1 <= self.tasks <= self.features,
                f"tasks must be 1 to {self.features} (the features), found {self.tasks}",
            ),
            (self.train >= 2 * self.features, f"train must be at least {2 * self.features}, found {self.train}"),
            (min(self.val, self.test) >= 1, f"val and test must be at least 1, found {self.val} and {self.test}"),
        )
        for fine, message in checks:
            if not fine:
                raise ValueError(f"synthetic_regression: {message}")

    @property
    def features(self) -> int:
        return self.dim if self.teacher == "linear" else FEATURES

    @property
    def cosine(self) -> float:
        """Of each pair of task teachers."""
        return 1 - self.conflict * self.tasks / (self.tasks - 1) if self.tasks > 1 else 1.0

    def facts(self) -> Facts:
        tasks = tuple(Task(f"task_{t}", 1, "regression", ("rmse",), 1.0) for t in range(self.tasks))
        sizes = {"val_size": self.val, "test_size": self.test}
        return Facts(tasks, self.train, (self.dim,), fingerprint(RECIPE, asdict(self)), sizes)

    def split(self, split: Split) -> ArraySamples:
        return _draw(self)[split]


def teachers(tasks: int, cosine: float, features: int, rng: np.random.RandomState) -> np.ndarray:
    """[tasks, features] unit rows whose pairwise cosine is ``cosine``, turned at random."""
    gram = (1 - cosine) * np.eye(tasks) + cosine * np.ones((tasks, tasks))
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    basis, _ = np.linalg.qr(rng.standard_normal((features, tasks)))
    return np.asarray(root @ basis.T)


@cache
def _draw(params: SyntheticRegression) -> dict[Split, ArraySamples]:
    rng = draws(params.data_seed, "teacher")
    sizes = (params.train, params.val, params.test)
    hidden = rng.standard_normal((params.dim, FEATURES)) / np.sqrt(params.dim)
    x = draws(params.data_seed, "inputs").standard_normal((sum(sizes), params.dim))
    features = x if params.teacher == "linear" else np.tanh(x @ hidden)
    known = features[: params.train]
    values, vectors = np.linalg.eigh(np.cov(known, rowvar=False, bias=True).reshape(params.features, params.features))
    white = (features - known.mean(0)) @ (vectors / np.sqrt(values)) @ vectors.T
    clean = white @ teachers(params.tasks, params.cosine, params.features, rng).T
    y = clean + params.noise * draws(params.data_seed, "noise").standard_normal(clean.shape)
    y = ((y - y[: params.train].mean(0)) / y[: params.train].std(0)).astype(np.float32)
    cuts = (0, *np.cumsum(sizes))
    return {split: _part(x.astype(np.float32), y, *cut) for split, cut in zip(Split, pairwise(cuts), strict=True)}


def _part(x: np.ndarray, y: np.ndarray, start: int, stop: int) -> ArraySamples:
    targets = {f"task_{t}": np.ascontiguousarray(y[start:stop, t]) for t in range(y.shape[1])}
    return ArraySamples(x[start:stop], targets)
