"""Fronts: which points nothing beats, and how much they cover."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mtlfleet_analysis.estimands import Measured, measured
from mtlfleet_analysis.signflip import Floats


def _as_losses(points: npt.ArrayLike, higher_is_better: Sequence[bool] | bool) -> tuple[Floats, Floats]:
    p = np.asarray(points, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 1:
        raise ValueError(f"points: expected [points, objectives], found shape {p.shape}")
    signs = np.where(np.broadcast_to(np.asarray(higher_is_better, dtype=bool), (p.shape[1],)), -1.0, 1.0)
    return p * signs, signs


def non_dominated(points: npt.ArrayLike, higher_is_better: Sequence[bool] | bool = False) -> npt.NDArray[np.bool_]:
    """Mask [points] of those that no other point equals or beats everywhere and beats somewhere."""
    losses, _ = _as_losses(points, higher_is_better)
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(axis=2)
    better = (losses[:, None, :] < losses[None, :, :]).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0), dtype=np.bool_)


def hypervolume(
    points: npt.ArrayLike, reference: npt.ArrayLike, higher_is_better: Sequence[bool] | bool = False
) -> Measured:
    """Volume between ``points`` [points, objectives] and the ``reference`` point that at least one of them dominates.

    Compare only sets of equal size: more points and more noise both raise it. Exact, by slicing the last objective.

    >>> hypervolume([[5, 5], [4, 6], [2, 7], [7, 4]], 10)
    38.0
    """
    losses, signs = _as_losses(points, higher_is_better)
    ref = np.broadcast_to(np.asarray(reference, dtype=np.float64), (losses.shape[1],)) * signs
    if not np.isfinite(losses).all() or not np.isfinite(ref).all():
        raise ValueError("points and reference must be finite")
    return measured("hypervolume", _volume(losses[(losses < ref).all(axis=1)], ref))


def hypervolume_ratio(
    points: npt.ArrayLike,
    others: npt.ArrayLike,
    reference: npt.ArrayLike,
    higher_is_better: Sequence[bool] | bool = False,
) -> Measured:
    """Hypervolume of one set over that of another, both [points, objectives] with equally many points.

    Raises ValueError for sets of different size, of which the larger one is favoured, and for an empty denominator.
    """
    a, b = np.asarray(points, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"points and others: sets of equal size are compared, found {a.shape} and {b.shape}")
    volume = hypervolume(b, reference, higher_is_better)
    if not volume > 0:
        raise ValueError("others: no point of it dominates the reference")
    return measured("hypervolume_ratio", hypervolume(a, reference, higher_is_better) / volume)


def eps_indicator(
    points: npt.ArrayLike, others: npt.ArrayLike, higher_is_better: Sequence[bool] | bool = False
) -> Measured:
    """Additive epsilon: what every objective of ``points`` must gain for each of ``others`` to be weakly dominated.

    At most zero where ``points`` already dominate. Source: Zitzler et al., IEEE TEC 7, 2003.

    >>> eps_indicator([[1.0, 3.0]], [[2.0, 2.0]])
    1.0
    """
    a, _ = _as_losses(points, higher_is_better)
    b, _ = _as_losses(others, higher_is_better)
    if a.shape[1] != b.shape[1] or not (len(a) and len(b)):
        raise ValueError(f"expected two non-empty sets of one width, found shapes {a.shape} and {b.shape}")
    return measured("eps_indicator", float((a[:, None, :] - b[None, :, :]).max(axis=2).min(axis=0).max()))


def _volume(losses: Floats, ref: Floats) -> float:
    if losses.shape[0] == 0:
        return 0.0
    if losses.shape[1] == 1:
        return float(ref[0] - losses[:, 0].min())
    losses = losses[np.argsort(losses[:, -1], kind="stable")]
    edges = np.append(losses[:, -1], ref[-1])
    total = 0.0
    for i in range(losses.shape[0]):
        if edges[i + 1] > edges[i]:
            total += _volume(losses[: i + 1, :-1], ref[:-1]) * float(edges[i + 1] - edges[i])
    return total
