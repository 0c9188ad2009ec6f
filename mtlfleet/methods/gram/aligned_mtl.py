from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from mtlfleet.linalg.spectrum import align
from mtlfleet.methods.arrays import as_array, as_weights, preference
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method


@method("aligned_mtl")
@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedMTL(GramWeighting[None]):
    r"""Gradients made orthogonal and equally long, as close to the original ones as that allows, then added.

    ``scale_mode``: the common length from the smallest (``min``), ``median`` or mean (``rmse``) eigenvalue.
    ``preference``: how the aligned gradients are added: ``sum``, ``mean``, or one number per task. ``tolerance``:
    machine epsilon of the gradients' type; eigenvalues below K times that part of the largest are dropped.

    Math        :math:`G = V \Lambda V^T`, :math:`\alpha = \sqrt{\sigma}\, V_r \Lambda_r^{-1/2} V_r^T p`,
                :math:`\sigma = \lambda_r` for ``min``.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none.
    Source      Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023.
    Departures  None; ``aligned_mtl@torchjd`` has p = 1/K. Dropped eigenvalues are reported as ``rank_deficient``, an
                all-zero Jacobian (weights p) as ``stationary``.
    Properties  permutation, common_scaling

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("aligned_mtl", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), preference="mean")
    tensor([0.5528, 0.4146], dtype=torch.float64)
    """

    scale_mode: Literal["min", "median", "rmse"] = "min"
    preference: Literal["sum", "mean"] | tuple[Annotated[float, Ge(0)], ...] = "sum"
    tolerance: Annotated[float, Gt(0)] = 1.1920929e-07

    presets: ClassVar[dict[str, dict[str, str]]] = {
        "official": {"preference": "sum"},
        "torchjd": {"preference": "mean"},
    }

    def __post_init__(self) -> None:
        if not isinstance(self.preference, str):
            object.__setattr__(self, "preference", tuple(self.preference))

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain when the preference has another length than the tasks."""
        g = as_array(gram)
        balance, rank = align(g, self.scale_mode, self.tolerance)
        status = "stationary" if rank == 0 else "rank_deficient" if rank < len(g) else "ok"
        return Decision(as_weights(balance @ preference(self.preference, len(g))), None, status)
