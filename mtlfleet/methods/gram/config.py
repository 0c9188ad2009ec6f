from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from mtlfleet.linalg.spectrum import preferred_direction
from mtlfleet.methods.arrays import as_array, as_weights, preference
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


@method("config")
@dataclass(frozen=True, slots=True, kw_only=True)
class ConFIG(GramWeighting[None]):
    r"""The direction with equal cosines to all task gradients, as long as they reach along it together.

    ``p``: the cosines' proportions: ``sum`` or ``mean`` for equal ones, or one number per task.

    Math        :math:`x = H^{+} p` with H the cosines of the gradients, :math:`q = \sqrt{x^T H x}`; :math:`\alpha_k =
                \Lambda x_k / (n_k q)`, :math:`\Lambda = \sum_k n_k (H x)_k / q`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none.
    Source      Liu, Chu and Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks, ICLR
                2025.
    Departures  From the Gram matrix, where the authors take the pseudo-inverse of the unit gradients: the same
                direction. Parallel to ``imtl_g`` up to sign, and never uphill for independent gradients. Zero gradients
                are left out (``zero_gradient``), dependent ones reported as ``rank_deficient``; gradients that cancel
                give no update (``stationary``).
    Properties  permutation, positive_scaling, common_scaling

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.combine("config", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.3536, 0.8536])
    """

    p: Literal["sum", "mean"] | tuple[Annotated[float, Gt(0)], ...] = "sum"

    def __post_init__(self) -> None:
        if not isinstance(self.p, (str, int, float)):
            object.__setattr__(self, "p", tuple(self.p))

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain when p has another length than the tasks."""
        g = as_array(gram)
        weights, status = preferred_direction(g, preference(self.p, len(g)))
        return Decision(as_weights(weights), None, status)
