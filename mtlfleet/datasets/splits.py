"""Who is in train, validation and test. Drawn once from the data's own seed, never from a trial's."""

from __future__ import annotations

import numpy as np

from mtlfleet.datasets.base import Split
from mtlfleet.plan.streams import stream


def draws(seed: int, purpose: str) -> np.random.RandomState:
    """A generator for one purpose of one dataset.

    RandomState, because NumPy promises never to change its streams (NEP 19); a fingerprint stands for the drawn data.
    """
    return np.random.RandomState(np.random.MT19937(stream(seed, purpose)))


def stratified(labels: np.ndarray, shares: tuple[float, float, float], seed: int) -> dict[Split, np.ndarray]:
    """Positions of each split, sorted; every class is divided by the same ``shares``; test gets what rounding leaves.

    Parameters
    ----------
    labels:  [n], the class to stratify by.
    shares:  of train, validation and test; they sum to one.
    """
    rng = draws(seed, "split")
    parts: dict[Split, list[np.ndarray]] = {split: [] for split in Split}
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        first = int(shares[0] * len(members))
        second = first + int(shares[1] * len(members))
        for split, part in zip(Split, np.split(members, [first, second]), strict=True):
            parts[split].append(part)
    return {split: np.sort(np.concatenate(part)) for split, part in parts.items()}
