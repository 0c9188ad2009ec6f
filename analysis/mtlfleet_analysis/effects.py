"""Effect sizes: how much better, not how surely."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from mtlfleet_analysis.estimands import Measured, measured
from mtlfleet_analysis.signflip import Floats

Convention = Literal["flat", "per_task"]


def delta_m(
    values: npt.ArrayLike,
    reference: npt.ArrayLike,
    higher_is_better: Sequence[bool] | npt.ArrayLike,
    convention: Convention = "flat",
    groups: Sequence[Hashable] | None = None,
) -> Measured:
    r"""Average percent change of several metrics against a reference, usually single-task learning.

    ``flat``: :math:`\frac{100}{M}\sum_i (-1)^{h_i} (v_i - b_i) / |b_i|` over all metrics, **lower is better**
    (Nash-MTL, FAMO, FairGrad). ``per_task``: the same with the sign turned, averaged within each of ``groups`` (a
    task's metrics) first and over the groups then, **higher is better** (LibMTL).

    Raises ValueError where a reference is zero or not finite.

    >>> round(delta_m([0.5, 2.0], [0.4, 2.5], [True, False]), 6)
    -22.5
    """
    v, b = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    up = np.asarray(higher_is_better, dtype=bool)
    if v.ndim != 1 or v.shape != b.shape or up.shape != v.shape or v.size == 0:
        raise ValueError(f"expected three vectors of one length, found {v.shape}, {b.shape} and {up.shape}")
    if not np.isfinite(b).all() or (b == 0).any():
        raise ValueError("reference: a percent change needs references that are finite and not zero")
    gain = 100 * np.where(up, 1.0, -1.0) * (v - b) / np.abs(b)
    if convention == "flat":
        return measured("delta_m", float(-np.mean(gain)))
    if convention != "per_task":
        raise ValueError(f"convention: expected flat or per_task, found {convention!r}")
    if groups is None or len(groups) != v.size:
        raise ValueError("groups: the per_task convention needs the task of every metric")
    means = [float(np.mean(gain[[g == name for g in groups]])) for name in dict.fromkeys(groups)]
    return measured("delta_p", float(np.mean(means)))


def iqm(scores: npt.ArrayLike) -> Measured:
    """Interquartile mean: of the middle half of all scores. Source: Agarwal et al., NeurIPS 2021.

    >>> iqm([0, 1, 2, 3])
    1.5
    """
    return measured("iqm", stats.trim_mean(np.asarray(scores, dtype=np.float64), 0.25, axis=None))


def probability_of_improvement(x: npt.ArrayLike, y: npt.ArrayLike) -> Measured:
    """P(a run of X scores higher than a run of Y), ties half, averaged over tasks; arrays [runs] or [runs, tasks].

    Source: Agarwal et al., Deep reinforcement learning at the edge of the statistical precipice, NeurIPS 2021.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a, b = (m[:, None] if m.ndim == 1 else m for m in (a, b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.size or not b.size:
        raise ValueError(f"expected [runs] or [runs, tasks] over the same tasks, found {a.shape} and {b.shape}")
    signs: Floats = np.sign(a[:, None, :] - b[None, :, :])
    return measured("probability_of_improvement", float(np.mean((signs + 1) / 2)))
