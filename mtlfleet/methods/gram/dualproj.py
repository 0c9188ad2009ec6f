from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from mtlfleet.linalg.cone import project_sum
from mtlfleet.linalg.gram import is_stationary, regularised
from mtlfleet.methods.arrays import as_array, as_weights, preference
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


@method("dualproj")
@dataclass(frozen=True, slots=True, kw_only=True)
class DualProj(GramWeighting[None]):
    r"""The mean gradient, projected to where it hurts no task.

    ``p``: what is projected: ``mean``, ``sum``, or a combination with one number per task. ``reg``: added to the
    diagonal of the Gram, in units of its trace. ``norm_eps``: a Gram with a smaller trace counts as zero.

    Math        :math:`\alpha = \arg\min_{v \ge p} v^T G v`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none.
    Source      Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017 (equation 11).
    Departures  An exact projection; ``dualproj@torchjd`` has that library's ridge and threshold of 1e-4. An update that
                vanishes is reported as ``stationary``.
    Properties  permutation, common_scaling, non_conflict, keeps_agreement

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("dualproj", torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    tensor([0.6111, 0.5000], dtype=torch.float64)
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
        weights = project_sum(regularised(g, self.reg, self.norm_eps), preference(self.p, len(g)))
        return Decision(as_weights(weights), None, "stationary" if is_stationary(weights, g) else "ok")
