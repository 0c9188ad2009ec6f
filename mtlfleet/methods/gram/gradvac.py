from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from mtlfleet.linalg.surgery import raise_cosines
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, OutOfDomain, Step, method
from mtlfleet.methods.orders import random_orders

WIDEST = 1.0 - 1e-6  # of a target: two parallel gradients have no angle to turn by


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Running means [K, K] of the cosines each task saw with each other one."""

    cosines: Tensor


@method("gradvac")
@dataclass(frozen=True, slots=True, kw_only=True)
class GradVac(GramWeighting[Targets]):
    r"""Gradients turned towards each other until their cosines reach what they were on average, then summed.

    ``beta``: how fast the average follows. ``groups``: the parts of the model whose gradients are compared; only the
    ``whole`` model so far, as ``layer`` and ``tensor`` need a Gram matrix per part.

    Math        Where :math:`\phi = \cos(g_i, g_j) < \hat\phi_{ij}`: :math:`g_i \leftarrow g_i + g_j\, n_i (\hat\phi
                \sqrt{1 - \phi^2} - \phi \sqrt{1 - \hat\phi^2}) / (n_j \sqrt{1 - \hat\phi^2})`; then always
                :math:`\hat\phi_{ij} \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi`; :math:`d = \sum_i g_i`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: targets ``[K, K]``; orders are keyed by (seed, step).
    Source      Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
                Multilingual Models, ICLR 2021.
    Departures  The whole model, where the paper prefers layers. ``gradvac@libmtl`` has beta 0.5. A zero gradient turns
                nobody and is reported as ``zero_gradient``.
    Properties  common_scaling, keeps_agreement

    >>> from mtlfleet import methods
    >>> methods.weights("gradvac", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))  # targets start at zero: pcgrad
    tensor([2.0000, 1.5000], dtype=torch.float64)
    """

    beta: Annotated[float, Ge(0), Le(1)] = 0.01
    groups: Literal["whole", "layer", "tensor"] = "whole"

    presets: ClassVar[dict[str, dict[str, float]]] = {"libmtl": {"beta": 0.5}}

    def __post_init__(self) -> None:
        if self.groups != "whole":
            raise OutOfDomain(
                f"gradvac: groups `{self.groups}` needs one Gram matrix per {self.groups}; the engine gives one in all",
                help="use groups: whole",
            )

    def init(self, tasks: int) -> Targets:
        return Targets(torch.zeros(tasks, tasks, dtype=torch.float64))

    def weigh(self, gram: Gram, losses: Losses, state: Targets, at: Step) -> Decision:  # noqa: ARG002
        g, target = as_array(gram), as_array(state.cosines)
        turned, seen = raise_cosines(g, random_orders(len(g), at, "gradvac"), target.clip(-WIDEST, WIDEST))
        after = (1.0 - self.beta) * target + self.beta * seen
        np.fill_diagonal(after, 0.0)
        status = "ok" if np.diagonal(g).all() else "zero_gradient"
        return Decision(as_weights(turned.sum(axis=0)), Targets(torch.from_numpy(after)), status)
