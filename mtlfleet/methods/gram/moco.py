from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from mtlfleet.engine.products import block_gram, combine
from mtlfleet.linalg.simplex import nearest_shares
from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import OwnStep, Rows, Step, TaskGradients, method
from mtlfleet.methods.domain import refuse_negative
from mtlfleet.methods.shards import beside


@dataclass(frozen=True, slots=True, eq=False)
class Tracked:
    """Steps so far; the tracked gradients [K, n], this rank's columns ([K, 0] before the first step); weights [K]."""

    steps: int
    average: Tensor
    weights: Tensor


@method("moco")
@dataclass(frozen=True, slots=True, kw_only=True)
class MoCo(OwnStep[Tracked]):
    r"""Weights that follow the shortest convex combination of slowly tracked gradients, which are what is combined.

    ``beta``, ``sigma_beta``: rate of the tracking, beta / t^sigma_beta at step t = 1, 2, ...; ``gamma``,
    ``sigma_gamma``: that of the weights. ``rho``: pull of the weights towards zero, hence towards equality. ``norm``:
    track gradients as they are (``none``) or stretched to the size of their loss (``loss``). ``shares``: how weights
    are kept on the simplex, by ``projection`` or by ``softmax``.

    Math        :math:`y_k \leftarrow y_k - \beta_t (y_k - g_k)`, :math:`w \leftarrow \Pi_\Delta(w - \gamma_t (Y Y^T +
                \rho I) w)`, :math:`d = Y^T w`; y starts at 0, w at 1/K.
    Shapes      rows ``[K, n]`` -> update ``[n]``; state: y ``[K, n]``, w ``[K]``, a count. Reports ``weight``.
    Source      Fernando et al., Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach,
                ICLR 2023.
    Departures  The rates are those of LibMTL, whose form is ``moco@libmtl`` (``norm`` loss, ``softmax``): softmax of
                shares alone pulls them to equality, and as gamma falls they end there whatever the gradients are. Under
                ``loss`` a negative loss, which would turn its gradient round, is refused.
    Properties  permutation

    >>> from mtlfleet import methods
    >>> methods.combine("moco", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.0063, 0.2469])
    """

    weight_sum: ClassVar[str] = "none"

    shards: ClassVar[tuple[str, ...]] = ("average",)

    beta: Annotated[float, Gt(0), Le(1)] = 0.5
    sigma_beta: Annotated[float, Ge(0)] = 0.5
    gamma: Annotated[float, Ge(0)] = 0.1
    sigma_gamma: Annotated[float, Ge(0)] = 0.5
    rho: Annotated[float, Ge(0)] = 0.0
    norm: Literal["none", "loss"] = "none"
    shares: Literal["projection", "softmax"] = "projection"

    presets: ClassVar[dict[str, dict[str, Any]]] = {"libmtl": {"norm": "loss", "shares": "softmax"}}

    def init(self, tasks: int) -> Tracked:
        return Tracked(0, torch.zeros(tasks, 0), torch.full((tasks,), 1.0 / tasks, dtype=torch.float64))

    def step(self, grads: TaskGradients, state: Tracked, at: Step) -> tuple[Tracked, str]:
        """Raises OutOfDomain for a negative loss with ``norm`` loss."""
        steps = state.steps + 1
        rows = self._posed(grads, at)
        average = torch.lerp(beside(state.average, rows), rows, self.beta / steps**self.sigma_beta)
        gram = grads.total(block_gram(average))
        w = state.weights
        slope = gram @ w + self.rho * w
        moved = w - self.gamma / steps**self.sigma_gamma * slope
        w = torch.softmax(moved, dim=0) if self.shares == "softmax" else as_weights(nearest_shares(as_array(moved)))
        grads.write(combine(average, w, in_place=False))
        return Tracked(steps, average, w), "ok"

    def report(self, state: Tracked) -> Mapping[str, Tensor]:
        return {"weight": state.weights}

    def _posed(self, grads: TaskGradients, at: Step) -> Tensor:
        """What is tracked [K, n]; a zero gradient stays one."""
        rows: Rows = grads.rows()
        if self.norm == "none":
            return rows
        refuse_negative("moco", grads.losses, at, "it would turn its gradient round")
        norms = grads.gram().diagonal().clamp_min(0).sqrt()
        scale = torch.where(norms > 0, grads.losses / norms, 0.0)
        return rows * scale[:, None].to(rows)
