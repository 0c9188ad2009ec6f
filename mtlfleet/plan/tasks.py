"""What a task is and which way its metrics point. No torch: the planner, the store and the statistician read these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["max", "min", "none"]
Kind = Literal["classification", "binary", "regression", "segmentation", "depth", "normals", "custom"]

DENSE: frozenset[str] = frozenset({"segmentation", "depth", "normals"})  # kinds with a prediction for every pixel


@dataclass(frozen=True)
class Metric:
    """One number a task is judged by.

    Parameters
    ----------
    name:       unique per task, ``[a-z0-9_]+``.
    direction:  ``"max"`` if higher is better, ``"min"`` if lower is better; there is no default.
    unit:       ``"fraction"``, ``"degree"``, ``"m"``, ... or ``""``.
    scale:      ``"ratio"`` when zero is a true zero, so that percent changes mean something; else ``"interval"``.
    best:       the value a perfect predictor gets.
    """

    name: str
    direction: Direction
    unit: str = ""
    scale: Literal["ratio", "interval"] = "ratio"
    best: float = 0.0
    description: str = ""


METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "accuracy", "max", "fraction", best=1.0, description="share of samples whose top prediction is the label"
        ),
        Metric("error", "min", "fraction", description="1 - accuracy"),
        Metric("rmse", "min", "target units", description="square root of the mean squared error"),
        Metric("mse", "min", "target units squared", description="mean squared error"),
        Metric("mae", "min", "target units", description="mean absolute error"),
        Metric("logloss", "min", "nats", description="mean negative log-likelihood of the label"),
        Metric("f1", "max", "fraction", best=1.0, description="F1 of the positive class at probability 0.5"),
        Metric("macro_f1", "max", "fraction", best=1.0, description="mean of the F1 of each class that occurs"),
        Metric("balanced_accuracy", "max", "fraction", best=1.0, description="mean recall of the labels that occur"),
        Metric("auc", "max", "fraction", "interval", best=1.0, description="area under the ROC curve, ties count half"),
        Metric("r2", "max", "", "interval", best=1.0, description="1 - squared error / variance of the target, pooled"),
        Metric("ccc", "max", "", "interval", best=1.0, description="concordance correlation, pooled"),
        Metric("miou", "max", "fraction", best=1.0, description="mean over classes of pooled intersection over union"),
        Metric("pixel_accuracy", "max", "fraction", best=1.0, description="share of labelled pixels that are right"),
        Metric("abs_err", "min", "depth units", description="mean absolute depth error over pixels with a depth"),
        Metric("rel_err", "min", "fraction", description="mean of absolute depth error over depth"),
        Metric("depth_rmse", "min", "depth units", description="root mean squared error over pixels with a depth"),
        *(
            Metric(
                f"delta{k}",
                "max",
                "fraction",
                best=1.0,
                description=f"share of pixels within 1.25^{k} of depth",
            )
            for k in (1, 2, 3)
        ),
        Metric("angle_mean", "min", "degree", description="mean angle between normals"),
        Metric("angle_median", "min", "degree", description="median angle between normals, to 0.01 degrees"),
        Metric("within_11_25", "max", "fraction", best=1.0, description="share of normals less than 11.25 degrees off"),
        Metric("within_22_5", "max", "fraction", best=1.0, description="share of normals less than 22.5 degrees off"),
        Metric("within_30", "max", "fraction", best=1.0, description="share of normals less than 30 degrees off"),
        Metric("loss", "none", "", description="mean training loss of the task, unweighted"),
        Metric("samples", "none", "sample", description="training samples drawn, again and again, since the start"),
        Metric("selected_step", "none", "step", description="step of the checkpoint that validation chose"),
    )
}


@dataclass(frozen=True)
class Task:
    """One thing to predict.

    Parameters
    ----------
    name:     ``[a-z0-9_]+``; its key in targets, predictions and SQL.
    outputs:  width of the head (classes, or regression targets).
    kind:     chooses the loss: ``classification`` cross-entropy, ``binary`` logistic, ``regression`` mean squared
              error, ``custom`` asks the dataset's own ``loss``. Dense kinds have a prediction for every pixel:
              ``segmentation`` cross-entropy (-1 is no label), ``depth`` absolute error (0 is no depth), ``normals``
              1 - cosine (the zero vector is no normal).
    metrics:  names in ``METRICS``; the first is primary (checkpoint and configuration selection look at it).
    chance:   the primary metric of a predictor that ignores its input; what a diverged run is scored, at best.
    """

    name: str
    outputs: int
    kind: Kind
    metrics: tuple[str, ...]
    chance: float

    def __post_init__(self) -> None:
        missing = [m for m in self.metrics if m not in METRICS]
        if missing or not self.metrics:
            raise ValueError(f"task {self.name}: metrics {missing or 'missing'}; known: {', '.join(sorted(METRICS))}")

    @property
    def primary(self) -> Metric:
        return METRICS[self.metrics[0]]

    def skill(self, value: float) -> float:
        """(value - chance) / (best - chance) of the primary metric: 1 is perfect, 0 is chance, unit-free.

        >>> Task("left", 10, "classification", ("accuracy",), 0.5).skill(0.75)
        0.5
        """
        span = self.primary.best - self.chance
        return (value - self.chance) / span if span else 0.0


@dataclass(frozen=True)
class Facts:
    """What the planner may know of a dataset without loading it."""

    tasks: tuple[Task, ...]
    train_size: int
    input_shape: tuple[int, ...]
    fingerprint: str
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)
