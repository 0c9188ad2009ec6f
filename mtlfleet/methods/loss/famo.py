"""FAMO: weights that follow how fast each task's loss fell in the step just taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt

from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method
from mtlfleet.methods.private import Private


@method("famo")
@dataclass(frozen=True, kw_only=True)
class FAMO(LossWeighting[Private]):
    r"""Weights under which all tasks improve at about one rate, at the price of one more forward pass.

    ``lr_w``: learning rate of the logits in an Adam of their own. ``gamma``: their weight decay. ``lower``: a bound
    that every loss stays above. ``eps``: added to the losses. ``max_norm``: the norm of the shared gradient is cut
    there; None is no limit. ``reforward``: the second pass has the ``same`` dropout as the first and leaves running
    statistics alone, or runs once more in ``train_mode``.

    Math        :math:`z = \mathrm{softmax}(\xi)`, :math:`D = \ell - b + \epsilon`, :math:`\alpha_k = c z_k / D_k` with
                sum one; after the step :math:`\delta = \ln D - \ln D^{+}` and :math:`\xi` descends along :math:`z
                \circ (\delta - z^T \delta) + \gamma \xi`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: logits ``[K]`` and their Adam moments.
    Source      Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023.
    Departures  The authors' code cuts the norm of the shared gradient at 1, for every method, and runs its second pass
                in train mode, which moves running statistics twice and draws other dropout: ``famo@official`` does
                both, and has the gamma of all their experiments but Cityscapes. A loss at or below the bound is
                refused.
    Properties  permutation, sum_to_one

    >>> famo = FAMO()
    >>> before = Losses(torch.tensor([1.0, 4.0], dtype=torch.float64))
    >>> weights, state, _ = famo.weigh(before, famo.init(2), Step())
    >>> weights
    tensor([0.8000, 0.2000], dtype=torch.float64)
    >>> famo.observe(before, Losses(torch.tensor([0.9, 3.9], dtype=torch.float64)), state, Step()).value
    tensor([-0.0250,  0.0250], dtype=torch.float64)
    """

    weight_sum: ClassVar[str] = "one"

    observes: ClassVar[bool] = True

    lr_w: Annotated[float, Gt(0)] = 0.025
    gamma: Annotated[float, Ge(0)] = 1e-3
    lower: float = 0.0
    eps: Annotated[float, Gt(0)] = 1e-8
    max_norm: Annotated[float, Gt(0)] | None = None
    reforward: Literal["same", "train_mode"] = "same"  # type: ignore[misc]  # a class trait elsewhere, see Method

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "official": {"gamma": 1e-3, "max_norm": 1.0, "reforward": "train_mode"},
        "cityscapes": {"gamma": 1e-2},
    }

    @property
    def shared_norm(self) -> float | None:  # type: ignore[override]
        return self.max_norm

    def init(self, tasks: int) -> Private:
        return Private.start(torch.zeros(tasks, dtype=torch.float64))

    def weigh(self, losses: Losses, state: Private, at: Step) -> Decision:
        """Raises OutOfDomain for a loss at or below the bound."""
        self._above(losses, at.number)
        share = torch.softmax(state.value, dim=0) / (losses - self.lower + self.eps)
        return Decision(Weights(share / share.sum()), state)

    def observe(self, before: Losses, after: Losses, state: Private, at: Step) -> Private:  # noqa: ARG002
        self._above(after, None)
        z = torch.softmax(state.value, dim=0)
        delta = torch.log(before - self.lower + self.eps) - torch.log(after - self.lower + self.eps)
        return state.descend(z * (delta - z @ delta) + self.gamma * state.value, self.lr_w)

    def _above(self, losses: Losses, step: int | None) -> None:
        if (losses - self.lower + self.eps <= 0).any():
            when = f"at step {step}" if step is not None else "after a step"
            raise OutOfDomain(
                f"famo: a loss {when} is not above the bound {self.lower:g}: {losses.tolist()}",
                help="lower `lower`, or shift the loss",
            )
