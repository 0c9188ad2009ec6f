from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from mtlfleet.linalg.cone import project_rows
from mtlfleet.linalg.gram import is_stationary, regularised
from mtlfleet.methods.arrays import as_array, as_weights, preference
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


@method("upgrad")
@dataclass(frozen=True, slots=True, kw_only=True)
class UPGrad(GramWeighting[None]):
    r"""Each task gradient projected to where it hurts no task, then averaged.

    ``p``: how the projections are added: ``mean``, ``sum``, or one number per task. ``reg``: added to the diagonal of
    the Gram, in units of its trace. ``norm_eps``: a Gram with a smaller trace counts as zero.

    Math        :math:`\alpha = \sum_i p_i \arg\min_{v \ge e_i} v^T G v`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none.
    Source      Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024.
    Departures  Exact projections: no ridge and no threshold by default, as either changes the update once gradients
                are small or unequal. ``upgrad@torchjd`` has the authors' 1e-4 for both. An update that vanishes is
                reported as ``stationary``.
    Properties  permutation, common_scaling, non_conflict, keeps_agreement

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("upgrad", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([1.0000, 0.7500], dtype=torch.float64)
    """

    p: Literal["sum", "mean"] | tuple[Annotated[float, Ge(0)], ...] = "mean"
    reg: Annotated[float, Ge(0)] = 0.0
    norm_eps: Annotated[float, Ge(0)] = 0.0

    presets: ClassVar[dict[str, dict[str, float]]] = {"torchjd": {"reg": 1e-4, "norm_eps": 1e-4}}

    def __post_init__(self) -> None:
        if not isinstance(self.p, (str, int, float)):
            object.__setattr__(self, "p", tuple(self.p))

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain when p has another length than the tasks."""
        g = as_array(gram)
        weights = preference(self.p, len(g)) @ project_rows(regularised(g, self.reg, self.norm_eps))
        return Decision(as_weights(weights), None, "stationary" if is_stationary(weights, g) else "ok")
