"""The shortest convex combination of gradients that were first brought to some scale."""

from __future__ import annotations

import numpy as np

from mtlfleet.linalg.gram import Array, is_stationary, norms
from mtlfleet.linalg.min_norm import frank_wolfe, min_norm_point
from mtlfleet.methods.base import OutOfDomain, Step


def shortest(
    method: str, gram: Array, losses: Array, at: Step, norm: str, combine: str, solver: str
) -> tuple[Array, str]:
    """Weights [K] and the solver's word, from the Gram [K, K] and losses [K].

    ``norm``: each gradient is divided by nothing (``none``), its norm (``l2``), its loss (``loss``) or both
    (``loss+``); ``combine``: the weights go on the ``raw`` or on the ``normalized`` gradients; ``solver``: ``exact`` or
    ``fw``. Raises OutOfDomain for a loss that is not positive where the norm divides by losses.
    """
    size = norms(gram)
    if norm in ("loss", "loss+") and (losses <= 0).any():
        raise OutOfDomain(
            f"{method}: norm `{norm}` needs positive losses; at step {at.number} found {losses.tolist()}",
            help="use norm: l2 or norm: none",
        )
    scale = {"none": np.ones_like(size), "l2": size, "loss": losses, "loss+": losses * size}[norm]
    scale = np.where(scale > 0, scale, 1.0)  # a gradient whose divisor would be zero is left as it is
    posed = gram / scale[:, None] / scale[None, :]
    found = frank_wolfe(posed) if solver == "fw" else min_norm_point(posed)
    status = "ok"
    if not size.all():
        status = "stationary_by_zero_grad"
    elif is_stationary(found, posed):
        status = "stationary"
    return found / scale if combine == "normalized" else found, status
