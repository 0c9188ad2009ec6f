from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from mtlfleet.methods.ahead import LookAhead
from mtlfleet.methods.base import Decision, Losses, LossWeighting, OutOfDomain, Step, Weights, method
from mtlfleet.methods.private import Private


@method("auto_lambda")
@dataclass(frozen=True, slots=True, kw_only=True)
class AutoLambda(LossWeighting[Private]):
    r"""Weights trained so that a step on them would lower the primary tasks' losses on another batch.

    ``start``: the weights before the first step. ``lr_lambda``: their learning rate in an Adam of their own.
    ``primary``: which tasks count on the other batch, by their numbers in the data set, from 0; None is all.
    ``val_source``: where the other batch comes from: the training split in another order (``train_split``), or the
    validation split (``val``), which then no longer is unseen when it selects. ``reach``: how far the finite difference
    goes, as a distance in parameters. ``non_negative``: keep weights at zero or above.

    Math        :math:`\theta' = \theta - \eta (m + \nabla \sum_k \lambda_k \ell_k + \mathrm{wd}\,\theta)`, :math:`v =
                \nabla_{\theta'} \sum_{k \in P} \ell_k^{val}`, :math:`h_k = [\ell_k(\theta + \epsilon v) -
                \ell_k(\theta - \epsilon v)] / 2\epsilon`, :math:`\epsilon = 0.01 / \|v\|`; :math:`\lambda` descends
                along :math:`-\eta h`, then the step is on :math:`\sum_k \lambda_k \ell_k`.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: the weights ``[K]`` and their Adam moments. A step takes five
                forward and three backward passes, three all-reduces of a gradient and one more batch.
    Source      Liu, James, Davison and Johns, Auto-Lambda: Disentangling Dynamic Task Relationships, TMLR 2022.
    Departures  The four passes see the same dropout and leave running statistics alone, so that the difference is one
                of parameters. Where v is zero the weights stay, as they do in a step with numbers that are not finite.
                The rate is 1e-4, that of NYUv2; for Cityscapes the authors take 3e-5 (``auto_lambda@cityscapes``).
                LibMTL's form (softmax, halves of a batch, a third batch for the step) is not here.
    Properties  permutation

    >>> from mtlfleet.methods.ahead import LinearAhead
    >>> found, rows = AutoLambda(), torch.tensor([[1.0, 0.0], [-3.0, 1.0]])
    >>> found.look_ahead(LinearAhead(rows), found.init(2), Step()).value  # the first task is in the second one's way
    tensor([0.0999, 0.1001], dtype=torch.float64)
    """

    outer_batches: ClassVar[int] = 1

    start: float = 0.1
    lr_lambda: Annotated[float, Gt(0)] = 1e-4
    primary: tuple[Annotated[int, Ge(0)], ...] | None = None
    val_source: Literal["train_split", "val"] = "train_split"
    reach: Annotated[float, Gt(0)] = 0.01
    non_negative: bool = False

    presets: ClassVar[dict[str, dict[str, float]]] = {"cityscapes": {"lr_lambda": 3e-5}}

    @property
    def outer_split(self) -> str:  # type: ignore[override]
        return self.val_source

    def init(self, tasks: int) -> Private:
        """Raises OutOfDomain when there is no task of a number among ``primary``."""
        self._primary(tasks)
        return Private.start(torch.full((tasks,), self.start, dtype=torch.float64))

    def look_ahead(self, ahead: LookAhead, state: Private, at: Step) -> Private:  # noqa: ARG002
        slopes = ahead.slopes(state.value, self._primary(len(state.value)), self.reach)
        if slopes is None:
            return state
        after = state.descend(-ahead.rate * slopes, self.lr_lambda)
        if self.non_negative:
            after = Private(after.value.clamp_min(0.0), after.first, after.second, after.count)
        return after

    def weigh(self, losses: Losses, state: Private, at: Step) -> Decision:  # noqa: ARG002
        return Decision(Weights(state.value), state)

    def _primary(self, tasks: int) -> Tensor:
        """[K]: one for the tasks that count on the other batch."""
        places = range(tasks) if self.primary is None else self.primary
        if not places or max(places) >= tasks:
            raise OutOfDomain(
                f"auto_lambda: primary {list(places)} are not tasks of {tasks}: the first is number 0",
                help="set primary to places of tasks in the data set's list, or leave it out for all",
            )
        chosen = torch.zeros(tasks, dtype=torch.float64)
        chosen[list(places)] = 1.0
        return chosen
