from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from mtlfleet.methods.arrays import preference
from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method
from mtlfleet.methods.private import Private

FLOOR = -10.0  # of s, once negative losses are allowed: they pull s to minus infinity


@method("uw")
@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyWeighting(LossWeighting[Private]):
    r"""Task weights from learned homoscedastic uncertainties.

    ``lr_s``: learning rate of s in an Adam of its own, without weight decay. ``s_init``: where s starts.
    ``allow_negative``: accept negative losses, with s kept above -10. ``kinds``: per task ``regression`` or
    ``classification``, whose loss has no factor one half; None is regression for all.

    Math        :math:`L = \sum_k \tfrac12 (e^{-s_k} \ell_k + s_k)`, :math:`\alpha_k = \tfrac12 e^{-s_k}`,
                :math:`\partial L / \partial s_k = \tfrac12 (1 - e^{-s_k} \ell_k)`; stationary at :math:`s_k = \ln
                \ell_k`. Classification: :math:`e^{-s_k} \ell_k + \tfrac12 s_k`, stationary at :math:`\ln 2 \ell_k`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: s ``[K]`` and its Adam moments.
    Source      Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018.
    Departures  The regression form unless told otherwise, as most codes. s has its own optimizer (some codes train it
                with the model's, weight decay included; ``uw@libmtl`` has that one's start and rate, 1e-4, without the
                decay). A negative loss is refused, as the objective has no minimum there.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.weights("uw", torch.eye(2), torch.tensor([1.0, 4.0]))
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    lr_s: Annotated[float, Gt(0)] = 0.025
    s_init: float = 0.0
    allow_negative: bool = False
    kinds: tuple[Literal["regression", "classification"], ...] | None = None

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "nash": {"lr_s": 0.025, "s_init": 0.0},
        "libmtl": {"lr_s": 1e-4, "s_init": -0.5},
    }

    def __post_init__(self) -> None:
        if self.kinds is not None:
            object.__setattr__(self, "kinds", tuple(self.kinds))

    def init(self, tasks: int) -> Private:
        """Raises OutOfDomain when ``kinds`` are not one per task."""
        self._factor(tasks)
        return Private.start(torch.full((tasks,), self.s_init, dtype=torch.float64))

    def weigh(self, losses: Losses, state: Private, at: Step) -> Decision:
        """Weights of the present s; the next state has s moved along its gradient at these losses.

        Raises OutOfDomain for a negative loss unless ``allow_negative``.
        """
        if (losses < 0).any() and not self.allow_negative:
            raise OutOfDomain(
                f"uw: a task's loss is negative at step {at.number}: {losses.tolist()}; its weight has no bound",
                help="set allow_negative: true (s is then kept above -10), or shift the loss",
            )
        weights = self._factor(len(losses)) * torch.exp(-state.value)
        after = state.descend(0.5 - weights * losses, self.lr_s)
        if self.allow_negative:
            after = Private(after.value.clamp_min(FLOOR), after.first, after.second, after.count)
        return Decision(Weights(weights), after)

    def _factor(self, tasks: int) -> Tensor:
        """[K]: one half for regression, one for classification."""
        kinds = self.kinds or ("regression",) * tasks
        return torch.from_numpy(preference(tuple(1.0 if kind == "classification" else 0.5 for kind in kinds), tasks))
