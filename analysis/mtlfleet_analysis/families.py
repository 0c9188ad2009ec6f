"""A family of claims, corrected together: Holm, step-down max-T with common flips, Benjamini-Hochberg for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtlfleet.plan.claims import Claim
from mtlfleet_analysis.decision import holm_levels
from mtlfleet_analysis.multiplicity import benjamini_hochberg, holm
from mtlfleet_analysis.pairing import Pair
from mtlfleet_analysis.signflip import FLIPS, Floats, sign_rows, weights_of

_EXACT_UP_TO = 14


def max_t(terms: Floats, *, seed: int = 0, flips: int = FLIPS) -> Floats:
    """Step-down max-T adjusted p-values of m sign-flip tests that are flipped together.

    ``terms`` [m, n]: the weighted differences of each test, large meaning evidence; column j is the same pair
    (dataset, architecture, seed) in every test, so that flips keep what the tests have in common. Each test's sum is
    divided by the root of its sum of squares, which no flip changes. Exact up to 14 pairs, else ``flips`` random ones.
    Source: Westfall & Young, Resampling-based multiple testing, 1993, algorithm 2.8.

    >>> max_t(np.array([[3.0, 2.0, 4.0, 1.0, 2.0], [3.0, 2.0, 4.0, 1.0, -9.0]])).tolist()
    [0.03125, 0.5]
    """
    size = np.sqrt(np.sum(terms**2, axis=1))
    scaled = np.divide(terms, size[:, None], out=np.zeros_like(terms), where=size[:, None] > 0)
    # columns in an order made of their values, so that the order of the pairs decides nothing
    scaled = scaled[:, np.lexsort(np.abs(scaled)[::-1])]
    observed = scaled.sum(axis=1)
    order = np.argsort(-observed, kind="stable")
    at_least = np.zeros(len(observed))
    total = 0
    for signs in sign_rows(terms.shape[1], flips, seed, exact_up_to=_EXACT_UP_TO):
        drawn = (signs @ scaled.T)[:, order]
        highest = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]
        at_least += np.count_nonzero(highest >= observed[order] - 1e-12, axis=0)
        total += len(signs)
    if terms.shape[1] > _EXACT_UP_TO:  # the flips were drawn, so the identity counts as one more
        at_least, total = at_least + 1, total + 1
    adjusted = np.empty_like(at_least)
    adjusted[order] = np.maximum.accumulate(at_least / total)
    return adjusted


def oriented(claim: Claim, pairs: Sequence[Pair]) -> Floats:
    """The pairs' weighted differences, shifted and turned so that a large sum speaks for the claim."""
    d = np.array([p.difference for p in pairs]) * weights_of([p.stratum for p in pairs])
    delta = claim.margin * weights_of([p.stratum for p in pairs])
    return {"superiority": d, "non_inferiority": d + delta, "no_better_than": delta - d}[claim.alternative]


def levels(
    claims: Sequence[Claim], p: Sequence[float], pairs: Sequence[Sequence[Pair] | None], seed: int, confirmatory: bool
) -> list[tuple[float, float]]:
    """(adjusted p, level) of each claim of one family; ``pairs`` is None for a claim that a guard stops.

    Raises ValueError where max_t is asked for and the claims do not share their pairs.
    """
    alphas = [c.alpha for c in claims]
    if not confirmatory:
        return list(zip(map(float, benjamini_hochberg(p)), alphas, strict=True))
    if claims[0].correction == "holm":
        return list(zip(map(float, holm(p)), holm_levels(p, alphas), strict=True))
    judged = [i for i, found in enumerate(pairs) if found is not None]
    cells = {tuple((q.dataset, q.architecture, q.seed) for q in pairs[i] or ()) for i in judged}
    if len(cells) > 1:
        raise ValueError(f"family {claims[0].family}: max_t needs the same pairs in every claim")
    adjusted = np.ones(len(claims))
    if judged:
        adjusted[judged] = max_t(np.array([oriented(claims[i], pairs[i] or ()) for i in judged]), seed=seed)
    # A claim passes if max-T says so. The others share alpha for their refutations, kept below the claim's own p.
    left = max(1, int(np.sum(adjusted > np.array(alphas))))
    return [
        (float(a), own if a <= alpha else min(alpha / left, float(np.nextafter(own, 0.0))))
        for a, own, alpha in zip(adjusted, p, alphas, strict=True)
    ]
