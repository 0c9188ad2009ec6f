from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mtlfleet.methods.arrays import as_array, as_weights
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Step, method
from mtlfleet.methods.descent import shortest


@method("mgda")
@dataclass(frozen=True, slots=True, kw_only=True)
class MGDA(GramWeighting[None]):
    r"""The shortest convex combination of the task gradients: the direction of steepest common descent.

    ``norm``: what each gradient is divided by before the problem is posed: ``none``, its norm ``l2``, its loss
    ``loss``, or both ``loss+``. ``combine``: the weights found are put on the ``raw`` or the ``normalized``
    gradients. ``solver``: ``exact``, or ``fw`` for Frank-Wolfe as the baselines run it (100 steps, off by about
    1e-3).

    Math        :math:`\alpha = \arg\min_{w \in \Delta} \| \sum_k w_k g_k / s_k \|^2`.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: none.
    Source      Désidéri, Multiple-gradient descent algorithm, 2012; Sener and Koltun, Multi-Task Learning as
                Multi-Objective Optimization, NeurIPS 2018.
    Departures  An exact solver, where the authors' code runs projected gradient steps; ``mgda@official`` has its
                ``loss+``. With ``loss`` or ``loss+`` a non-positive loss is refused. A zero gradient is the shortest
                point, so the update vanishes for all tasks: reported as ``stationary_by_zero_grad``.
    Properties  permutation, common_scaling, non_conflict, sum_to_one

    >>> import torch
    >>> from mtlfleet import methods
    >>> methods.weights("mgda", torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    norm: Literal["none", "l2", "loss", "loss+"] = "none"
    combine: Literal["raw", "normalized"] = "raw"
    solver: Literal["exact", "fw"] = "exact"

    presets: ClassVar[dict[str, dict[str, str]]] = {
        "official": {"norm": "loss+"},
        "kurin": {"norm": "loss+", "combine": "normalized"},
    }

    @property
    def weight_sum(self) -> str:  # type: ignore[override]
        return "one" if self.combine == "raw" else "free"

    def weigh(self, gram: Gram, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        """Raises OutOfDomain for a loss that is not positive when the norm divides by losses."""
        g, told = as_array(gram), as_array(losses)
        found, status = shortest("mgda", g, told, at, self.norm, self.combine, self.solver)
        return Decision(as_weights(found), None, status)
