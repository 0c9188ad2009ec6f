from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, Losses, RepresentationWeighting, Step, method
from mtlfleet.methods.descent import shortest


@method("mgda_ub")
@dataclass(frozen=True, slots=True, kw_only=True)
class MGDAUpperBound(RepresentationWeighting[None]):
    r"""The convex combination of task gradients that is shortest at the representation, an upper bound of `mgda`.

    ``norm``, ``solver``: as for ``mgda``. ``convention``: samples side by side (``concat``) or summed first
    (``batch_sum``).

    Math        :math:`\alpha = \arg\min_{w \in \Delta} \| \sum_k w_k \nabla_Z \ell_k / s_k \|^2`; the trunk then gets
                :math:`\sum_k \alpha_k \nabla_\theta \ell_k` by one pass from Z.
    Shapes      gram ``[K, K]`` of gradients ``[B, ...]`` at Z -> weights ``[K]``; state: none.
    Source      Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018 (MGDA-UB).
    Departures  An exact solver, where the authors' code runs projected gradient steps that stop 0.001 short of a
                corner; ``mgda_ub@official`` has its ``loss+``, ``mgda_ub@libmtl`` gradients summed over the batch. With
                ``loss`` or ``loss+`` a non-positive loss is refused. A task whose gradient at Z vanishes stops the
                trunk: ``stationary_by_zero_grad``.
    Properties  permutation, common_scaling, non_conflict, sum_to_one

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("mgda_ub", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))  # Z as one sample of two numbers
    tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "one"

    norm: Literal["none", "l2", "loss", "loss+"] = "none"
    solver: Literal["exact", "fw"] = "exact"
    convention: Literal["concat", "batch_sum"] = "concat"

    presets: ClassVar[dict[str, dict[str, str]]] = {
        "official": {"norm": "loss+"},
        "libmtl": {"convention": "batch_sum", "solver": "fw"},
    }

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain for a loss that is not positive when the norm divides by losses."""
        found, status = shortest("mgda_ub", as_array(gram), as_array(losses), at, self.norm, "raw", self.solver)
        return Decision(as_weights(found), None, status)
