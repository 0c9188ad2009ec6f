from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le

from mtlfleet.methods.arrays import preference
from mtlfleet.methods.base import RepresentationMethod, Step, TaskGradients, method
from mtlfleet.methods.draws import uniform
from mtlfleet.plan.streams import stream


@method("graddrop_z")
@dataclass(frozen=True, slots=True, kw_only=True)
class GradDropLayer(RepresentationMethod[None]):
    r"""At each number of the representation one sign is drawn, by its purity, and only gradients of that sign pass.

    ``leak``: the part of a task's gradient that passes in any case; one number for all, or one per task.

    Math        Over the batch :math:`s_k = \sum_b \mathrm{sgn}(Z_b) \circ \nabla_{Z_b} \ell_k`; purity :math:`P =
                \tfrac12 (1 + \sum_k s_k / \sum_k |s_k|)`, :math:`U \sim U(0, 1)`, per coordinate; the trunk's pass
                starts from :math:`\sum_k (l_k + (1 - l_k) M_k) \circ \nabla_Z \ell_k` with :math:`M_k = [P > U][s_k >
                0] + [P < U][s_k < 0]`, the same for all samples.
    Shapes      gradients ``[K, B, ...]`` at Z -> where the trunk's pass starts ``[B, ...]``; state: none, draws are
                keyed by (seed, step, coordinate).
    Source      Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout, NeurIPS
                2020 (Algorithm 1, the layer).
    Departures  The keep function is the identity, as in their experiments. A coordinate that no gradient reaches has
                purity one half and passes nothing.
    Properties  permutation, common_scaling, keeps_agreement

    >>> from mtlfleet import methods
    >>> methods.combine("graddrop_z", torch.tensor([[1.0, 0.0, 2.0], [-1.0, 1.0, 1.0]]), seed=1)[1:]
    tensor([1., 3.])
    """

    weight_sum: ClassVar[str] = "none"

    leak: Annotated[float, Ge(0), Le(1)] | tuple[Annotated[float, Ge(0), Le(1)], ...] = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.leak, (int, float)):
            object.__setattr__(self, "leak", tuple(self.leak))

    def init(self, tasks: int) -> None:
        """Raises OutOfDomain when ``leak`` is not one number per task."""
        preference(self.leak, tasks)

    def step(self, grads: TaskGradients, state: None, at: Step) -> tuple[None, str]:  # noqa: ARG002
        at_z = grads.representation
        signed = at_z.batch_sum(signed=True)
        total = signed.abs().sum(dim=0)
        purity = torch.where(total > 0, signed.clamp_min(0).sum(dim=0) / total, 0.5)
        columns = torch.arange(signed.shape[1])
        drawn = uniform(stream(at.seed, "graddrop_z", at.number), columns, signed.device)
        positive = purity.to(torch.float64) > drawn
        passes = torch.where(positive, signed > 0, signed < 0)
        leak = torch.from_numpy(preference(self.leak, len(signed))).to(signed)[:, None]
        kept = leak + (1.0 - leak) * passes  # [K, D]
        mine = at_z.gradients
        if mine.shape[1]:  # a rank may have no samples
            mine = mine * kept.view(len(kept), 1, *mine.shape[2:])
        at_z.write(mine.sum(dim=0))
        return None, "ok"
