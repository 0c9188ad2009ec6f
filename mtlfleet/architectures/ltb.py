"""Learning to branch: each node of each layer chooses its parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlfleet.architectures.base import Batch, Context, Output, architecture
from mtlfleet.architectures.heads import drawn
from mtlfleet.architectures.staged import Staged, StagedModel, mixed, one_input
from mtlfleet.plan.tasks import Task


@architecture("ltb")
@dataclass(frozen=True, kw_only=True)
class LTB(Staged):
    r"""T nodes per stage; a node of the next stage, and each task's head, learns which of them to read.

    Math        :math:`x_i^{l+1} = f_i^{l+1}(\sum_j d_{ij} x_j^l)`, :math:`d_i \sim` Gumbel-softmax of
                :math:`\alpha_i` at a temperature that falls geometrically from ``tau`` to ``tau_end``; during the
                first ``warmup`` share of training :math:`d = 1/T`, in evaluation the largest :math:`\alpha` alone.
    Shapes      as hps, with T trunks and T^2 logits per stage.
    Source      Guo, Lee & Ulbricht, Learning to Branch for Multi-Task Learning, ICML 2020.
    Departures  Choices stay soft in training; no retraining of the branched network. Warm-up averages parents (LibMTL
                adds them up, which multiplies activations by T at each stage).

    Parameters
    ----------
    warmup, tau, tau_end:  see Math.
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps, for each node's column.
    """

    warmup: float = 0.1
    tau: float = 5.0
    tau_end: float = 0.5

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        if not 0 < self.tau_end <= self.tau or not 0 <= self.warmup < 1:
            raise ValueError(
                f"ltb: needs 0 < tau_end <= tau and 0 <= warmup < 1, found {self.tau_end}, {self.tau}, {self.warmup}"
            )
        root = int(torch.randint(2**62, ()))
        columns = [drawn(root, f"column/{n}", lambda: self.encoder(input_shape)) for n in range(len(tasks))]
        heads = self.heads(tasks, columns[0][-1].shape, input_shape, root)
        return Branching([nn.ModuleList(stages) for stages in columns], heads, self).settle(input_shape)


class Branching(StagedModel):
    """Columns of stages; ``choices[l]`` [T, T] are the logits of who reads whom after stage l."""

    gate_names = ("choices.",)

    def __init__(self, columns: list[nn.ModuleList], heads: nn.ModuleDict, spec: LTB) -> None:
        super().__init__()
        self.columns = nn.ModuleList(columns)
        self.heads = heads
        self.spec = spec
        count = len(columns)
        self.choices = nn.ModuleList(
            nn.ParameterDict({task: nn.Parameter(torch.zeros(count)) for task in heads}) for _ in columns[0]
        )

    def weights(self, logits: Tensor, ctx: Context) -> Tensor:
        """[T] over parents, at this point of training."""
        done = ctx.step / max(1, ctx.total_steps)
        if not self.training:
            return F.one_hot(logits.argmax(), len(logits)).to(logits)
        if done < self.spec.warmup:
            return torch.softmax(0 * logits, 0)
        tau = self.spec.tau * (self.spec.tau_end / self.spec.tau) ** done
        return F.gumbel_softmax(logits, tau)

    def forward(self, batch: Batch, ctx: Context) -> Output:
        x = one_input(batch, "ltb")
        columns = [list(column.children()) for column in self.columns]
        given = [x] * len(columns)
        for level, choice in enumerate(self.choices):
            found = [column[level](x) for column, x in zip(columns, given, strict=True)]
            assert isinstance(choice, nn.ParameterDict)
            given = [mixed(self.weights(logits, ctx), found) for logits in choice.values()]
        return Output(self.predictions(dict(zip(self.tasks, given, strict=True))))
