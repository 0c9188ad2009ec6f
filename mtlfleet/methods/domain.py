"""What a loss must be for a method to have a meaning."""

from __future__ import annotations

from torch import Tensor

from mtlfleet.methods.base import OutOfDomain, Step


def refuse_negative(method: str, losses: Tensor, at: Step, why: str, below: float = 0.0) -> None:
    """Raise OutOfDomain when a loss [K] is less than ``below``."""
    if (losses < below).any():
        raise OutOfDomain(
            f"{method}: a task's loss is negative at step {at.number}: {losses.tolist()}; {why}",
            help="shift the loss to be positive, or use `sum` or `linear`",
        )


def floored(method: str, losses: Tensor, at: Step, floor: float) -> tuple[Tensor, str]:
    """Losses [K] for a logarithm: never below ``floor``, reported as ``loss_at_floor`` there.

    Raises OutOfDomain for a loss below -floor.
    """
    refuse_negative(method, losses, at, "it has no logarithm", -floor)
    return losses.clamp_min(floor), "loss_at_floor" if (losses < floor).any() else "ok"
