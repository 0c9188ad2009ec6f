from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mtlfleet.methods.arrays import preference
from mtlfleet.methods.base import Elementwise, Rows, Step, TaskGradients, method
from mtlfleet.methods.draws import uniform
from mtlfleet.plan.streams import stream


@method("graddrop")
@dataclass(frozen=True, slots=True, kw_only=True)
class GradDrop(Elementwise[None]):
    r"""At each coordinate one sign is drawn, by how much of the gradients has it, and only gradients of that sign pass.

    ``leak``: the part of a task's gradient that passes in any case; one number for all, or one per task. ``renorm``:
    stretch the result to the length of the plain sum.

    Math        Purity :math:`P = \tfrac12 (1 + \sum_k g_k / \sum_k |g_k|)`, :math:`U \sim U(0, 1)`, per coordinate;
                :math:`d = \sum_k (l_k + (1 - l_k) M_k) g_k` with :math:`M_k = [P > U][g_k > 0] + [P < U][g_k < 0]`.
    Shapes      rows ``[K, n]`` -> update ``[n]``; state: none, draws are keyed by (seed, step, coordinate).
    Source      Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout, NeurIPS
                2020.
    Departures  On the gradients of shared parameters; the paper drops on those of the representation.
                ``graddrop@kurin`` stretches (Kurin et al., NeurIPS 2022), which the paper does not.
    Properties  permutation, common_scaling, keeps_agreement

    >>> from mtlfleet import methods
    >>> methods.combine("graddrop", torch.tensor([[1.0, 0.0, 2.0], [-1.0, 1.0, 1.0]]), seed=1)[1:]
    tensor([1., 3.])
    """

    weight_sum: ClassVar[str] = "none"

    leak: Annotated[float, Ge(0), Le(1)] | tuple[Annotated[float, Ge(0), Le(1)], ...] = 0.0
    renorm: bool = False

    presets: ClassVar[dict[str, dict[str, bool]]] = {"kurin": {"renorm": True}}

    def __post_init__(self) -> None:
        if not isinstance(self.leak, (int, float)):
            object.__setattr__(self, "leak", tuple(self.leak))

    def init(self, tasks: int) -> None:
        """Raises OutOfDomain when ``leak`` is not one number per task."""
        preference(self.leak, tasks)

    def merge(self, rows: Rows, columns: Tensor, state: None, at: Step) -> tuple[Tensor, None]:  # noqa: ARG002
        total = rows.abs().sum(dim=0)
        purity = torch.where(total > 0, rows.clamp_min(0).sum(dim=0) / total, 0.5)
        drawn = uniform(stream(at.seed, "graddrop", at.number), columns, rows.device)
        positive = purity.to(torch.float64) > drawn
        passes = torch.where(positive, rows > 0, rows < 0)
        leak = torch.from_numpy(preference(self.leak, len(rows))).to(rows)[:, None]
        return (rows * (leak + (1.0 - leak) * passes)).sum(dim=0), None

    def step(self, grads: TaskGradients, state: None, at: Step) -> tuple[None, str]:
        if not self.renorm:
            return Elementwise.step(self, grads, state, at)
        rows = grads.rows()
        merged, _ = self.merge(rows, grads.columns, state, at)
        both = torch.stack([rows.sum(dim=0), merged]).square().sum(dim=1, dtype=torch.float64)
        plain, dropped = grads.total(both.cpu()).sqrt().tolist()
        grads.write(merged * (plain / dropped) if dropped > 0 else merged)
        return None, "ok"
