from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt

from mtlfleet.methods.arrays import preference
from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method
from mtlfleet.methods.domain import floored
from mtlfleet.methods.tchebycheff import Nadir, log_weights


@method("stch")
@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothTchebycheff(LossWeighting[Nadir]):
    r"""A smooth maximum of the weighted losses: descent on the worst task, without the corners of a maximum.

    ``mu``: width of the smoothing; towards 0 only the worst task counts. ``form``: ``plain``, as the paper defines it,
    or ``mtl``, which the authors train networks with: logarithms of losses over a nadir measured in training (the
    method ``stch_mtl``). ``weights``: ``mean`` (1/K each), ``sum`` (ones), or one number per task; ``plain`` only.
    ``ideal``: what is subtracted from each loss first, ``plain`` only; None is zero. ``warmup_epochs``: the epoch that
    measures the nadir, ``mtl`` only.

    Math        :math:`L = \mu \log \sum_k \exp(w_k (\ell_k - z_k) / \mu)`, :math:`\alpha_k = w_k\,\mathrm{softmax}(w
                (\ell - z) / \mu)_k`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: of ``mtl``, summed losses ``[K]`` and their number.
    Source      Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024.
    Departures  None. ``stch@libmtl`` is the form of the authors' multi-task experiments.
    Properties  none

    >>> from mtlfleet import methods
    >>> methods.weights("stch", torch.eye(2), torch.tensor([1.0, 4.0]), weights="sum")
    tensor([0.0474, 0.9526], dtype=torch.float64)
    """

    mu: Annotated[float, Gt(0)] = 1.0
    form: Literal["plain", "mtl"] = "plain"
    weights: Literal["sum", "mean"] | tuple[Annotated[float, Ge(0)], ...] = "mean"
    ideal: tuple[float, ...] | None = None
    warmup_epochs: Annotated[int, Ge(0)] = 4

    presets: ClassVar[dict[str, dict[str, Any]]] = {"libmtl": {"form": "mtl", "mu": 1.0, "warmup_epochs": 4}}

    def __post_init__(self) -> None:
        for name in ("weights", "ideal"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, str):
                object.__setattr__(self, name, tuple(given))

    def init(self, tasks: int) -> Nadir:
        """Raises OutOfDomain when weights or ideal are not one number per task."""
        preference(self.weights, tasks)
        if self.ideal is not None:
            preference(self.ideal, tasks)
        return Nadir.start(tasks)

    def weigh(self, losses: Losses, state: Nadir, at: Step) -> Decision:
        """Raises OutOfDomain for a negative loss in the form ``mtl``."""
        if self.form == "mtl":
            positive, word = floored("stch", losses, at, 1e-20)
            found, state, status = log_weights(positive, state, at.epoch, self.mu, self.warmup_epochs)
            return Decision(Weights(found), state, status if word == "ok" else word)
        w = torch.from_numpy(preference(self.weights, len(losses)))
        above = losses - torch.tensor(self.ideal or (0.0,) * len(losses), dtype=torch.float64)
        return Decision(Weights(w * torch.softmax(w * above / self.mu, dim=0)), state)
