from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from mtlfleet.linalg.spectrum import align
from mtlfleet.methods.arrays import as_array, as_weights, preference
from mtlfleet.methods.base import Decision, Gram, Losses, RepresentationWeighting, Step, method


@method("aligned_mtl_ub")
@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedMTLUpperBound(RepresentationWeighting[None]):
    r"""Gradients made orthogonal and equally long at the representation; the trunk sees the weights that did it.

    ``scale_mode``, ``preference``, ``tolerance``: as for ``aligned_mtl``. ``convention``: samples side by side
    (``concat``) or summed first (``batch_sum``).

    Math        :math:`G = V \Lambda V^T` of :math:`\nabla_Z \ell_k`, :math:`\alpha = \sqrt{\sigma}\, V_r
                \Lambda_r^{-1/2} V_r^T p`; the trunk gets :math:`\sum_k \alpha_k \nabla_\theta \ell_k`.
    Shapes      gram ``[K, K]`` of gradients ``[B, ...]`` at Z -> weights ``[K]``; state: none.
    Source      Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023 (Aligned-MTL-UB).
    Departures  None. Dropped eigenvalues are reported as ``rank_deficient``, gradients that all vanish (weights p) as
                ``stationary``.
    Properties  permutation, common_scaling

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("aligned_mtl_ub", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), preference="mean")
    tensor([0.5528, 0.4146], dtype=torch.float64)
    """

    scale_mode: Literal["min", "median", "rmse"] = "min"
    preference: Literal["sum", "mean"] | tuple[Annotated[float, Ge(0)], ...] = "sum"
    tolerance: Annotated[float, Gt(0)] = 1.1920929e-07
    convention: Literal["concat", "batch_sum"] = "concat"

    presets: ClassVar[dict[str, dict[str, str]]] = {"libmtl": {"convention": "batch_sum"}}

    def __post_init__(self) -> None:
        if not isinstance(self.preference, str):
            object.__setattr__(self, "preference", tuple(self.preference))

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain when the preference has another length than the tasks."""
        g = as_array(gram)
        balance, rank = align(g, self.scale_mode, self.tolerance)
        status = "stationary" if rank == 0 else "rank_deficient" if rank < len(g) else "ok"
        return Decision(as_weights(balance @ preference(self.preference, len(g))), None, status)
