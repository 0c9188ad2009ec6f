"""Numbers on a line, put into groups of near ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtlfleet.linalg.gram import Array


def group_line(values: Array, groups: int) -> NDArray[np.int64]:
    """Group of each value [K], at most ``groups`` of them, numbered from the smallest values: least squares, exactly.

    K-means in one dimension is a shortest path over the sorted values (Wang and Song, The R Journal 2011): no seeds, no
    local optima. Equal values may fall into different groups only if there are more groups than distinct values.
    """
    order = np.argsort(values, kind="stable")
    line = values[order]
    count, groups = len(line), min(groups, len(line))
    best = np.full((groups + 1, count + 1), np.inf)
    best[0, 0] = 0.0
    cut = np.zeros((groups + 1, count + 1), dtype=np.int64)
    for m in range(1, groups + 1):
        for end in range(m, count + 1):
            costs = [best[m - 1, start] + _spread(line[start:end]) for start in range(m - 1, end)]
            cut[m, end] = m - 1 + int(np.argmin(costs))
            best[m, end] = min(costs)
    labels, end = np.zeros(count, dtype=np.int64), count
    for m in range(groups, 0, -1):
        labels[order[cut[m, end] : end]] = m - 1
        end = int(cut[m, end])
    return labels


def _spread(part: Array) -> float:
    return float(np.square(part - part.mean()).sum())
