"""Experts chosen by differentiable k-out-of-n selectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Batch, Context, Output, architecture
from mtlfleet.architectures.heads import drawn
from mtlfleet.architectures.staged import Staged, StagedModel, mixed, per_input
from mtlfleet.plan.tasks import Task


def smooth_step(t: Tensor, gamma: float) -> Tensor:
    r"""0 below :math:`-\gamma/2`, 1 above :math:`\gamma/2`, a cubic between.

    >>> smooth_step(torch.tensor([-1.0, 0.0, 0.25, 1.0]), 1.0)
    tensor([0.0000, 0.5000, 0.8438, 1.0000])
    """
    inside = -2 / gamma**3 * t**3 + 1.5 / gamma * t + 0.5
    return torch.where(t <= -gamma / 2, torch.zeros_like(t), torch.where(t >= gamma / 2, torch.ones_like(t), inside))


@architecture("dselect_k")
@dataclass(frozen=True, kw_only=True)
class DSelectK(Staged):
    r"""Shared trunks of which each task uses at most k: selectors over binary codes that end up exactly 0 or 1.

    Math        :math:`z_t = \sum_e q_{t,e} f_e(x)`, :math:`q_t = \sum_{i=1}^k \mathrm{softmax}(w_t)_i\, r(z_{t,i})`,
                :math:`r(z)_e = \prod_{b: e_b = 1} S(z_b) \prod_{b: e_b = 0} (1 - S(z_b))`, S the smooth step; the
                entropy of each r, times ``entropy``, joins the task's loss.
    Shapes      as hps, with ``experts`` trunks (a power of two) and k (log2 experts + 1) numbers per task.
    Source      Hazimeh et al., DSelect-k: Differentiable Selection in the Mixture of Experts, NeurIPS 2021: the
                static gate.
    Departures  The entropy term is part of the loss a balancing method weighs. (LibMTL calls backward on it in the
                forward pass, for the last task only, and the training loop's zero_grad then erases it.)

    Parameters
    ----------
    experts, k:      trunks, and how many of them a task may use.
    gamma, entropy:  width of the smooth step; weight of the entropy.
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps, for each expert.
    """

    experts: int = 4
    k: int = 2
    gamma: float = 1.0
    entropy: float = 1e-6

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        if self.experts < 2 or self.experts & (self.experts - 1):
            raise ValueError(f"dselect_k: experts must be a power of two, 2 or more, found {self.experts}")
        if not 1 <= self.k <= self.experts:
            raise ValueError(f"dselect_k: k must be 1 to {self.experts}, found {self.k}")
        root = int(torch.randint(2**62, ()))
        experts = self.encoders(input_shape, root, "expert", self.experts)
        selectors = {
            t.name: drawn(root, f"gate/{t.name}", lambda: Selector(self.experts, self.k, self.gamma)) for t in tasks
        }
        heads = self.heads(tasks, experts[0][-1].shape, input_shape, root)
        trunks = nn.ModuleList(nn.Sequential(*stages) for stages in experts)
        return Selecting(trunks, nn.ModuleDict(selectors), heads, self.entropy).settle(input_shape)


class Selector(nn.Module):
    """A task's weights [E] over experts, and the sum of the entropies of its k selections."""

    def __init__(self, experts: int, k: int, gamma: float) -> None:
        super().__init__()
        bits = experts.bit_length() - 1
        self.codes = nn.Parameter(torch.empty(k, bits).uniform_(-gamma / 100, gamma / 100))
        self.scores = nn.Parameter(torch.empty(k).uniform_(-0.05, 0.05))
        self.register_buffer("bit", (torch.arange(experts)[:, None] >> torch.arange(bits)) % 2 == 1)
        self.bit: Tensor
        self.gamma = gamma

    def forward(self) -> tuple[Tensor, Tensor]:
        step = smooth_step(self.codes, self.gamma)[:, None]
        each = torch.where(self.bit, step, 1 - step).prod(-1)
        entropy = -(each * (each + 1e-6).log()).sum()
        return torch.softmax(self.scores, 0) @ each, entropy


class Selecting(StagedModel):
    """Experts, a selector per task, heads."""

    gate_names = ("selectors.",)

    def __init__(self, experts: nn.ModuleList, selectors: nn.ModuleDict, heads: nn.ModuleDict, entropy: float) -> None:
        super().__init__()
        self.experts, self.selectors, self.heads, self.entropy = experts, selectors, heads, entropy

    def forward(self, batch: Batch, ctx: Context) -> Output:  # noqa: ARG002
        features, extras = {}, {}
        for task, found in per_input(batch, self.tasks, lambda x: [expert(x) for expert in self.experts]).items():
            weights, entropy = self.selectors[task]()
            features[task] = mixed(weights, found)
            extras[f"loss/{task}"] = self.entropy * entropy
        return Output(self.predictions(features), extras=extras)
