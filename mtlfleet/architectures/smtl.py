"""Safe multi-task learning: a public encoder, private ones, and a gate per task between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlfleet.architectures.base import Batch, Context, Output, architecture
from mtlfleet.architectures.heads import drawn
from mtlfleet.architectures.staged import Staged, StagedModel
from mtlfleet.plan.tasks import Task

PRIVATE = "private"  # the phase in which each task trains alone (strategy individual): the gate is shut
# In it every task's loss touches the gates with weight 0: the engine balances what tasks share, and asks for something.


@architecture("smtl")
@dataclass(frozen=True, kw_only=True)
class SMTL(Staged):
    r"""Each task mixes one public encoder with a private one: shut, the gate leaves single-task learning.

    Math        encoder-gated: :math:`\hat y_t = h_t(\alpha_t f_S(x) + (1 - \alpha_t) f_t(x))`; decoder-gated:
                :math:`\hat y_t = \alpha_t h_t(f_S(x)) + (1 - \alpha_t) h_t(f_t(x))`; :math:`\alpha_t = \sigma(s\,
                a_t)`, :math:`a_t = 0` at the start. Lite: in training a Gumbel-softmax of :math:`(s\, a_t, 0)` at a
                temperature that falls from ``tau`` to ``tau_end``, in evaluation the likelier encoder alone.
    Shapes      as hps, with T + 1 encoders and T numbers for the gates.
    Source      Yue, Ye, Zhang, Liang & Tsang, Deep Safe Multi-Task Learning, 2022 (arXiv 2111.10601).
    Departures  There is no public code: gates are scalars as the abstract says, their form and the temperatures are a
                reconstruction. ``gate_speed`` s stands for a learning rate s times as high under Adam. Decoder-gated:
                one decoder per task reads both encoders. "Individual" training is the strategy ``individual``.

    Parameters
    ----------
    gate:         ``encoder`` mixes features, ``decoder`` predictions (unit normals are normalised again by the loss).
    lite:         choose one encoder; ``export`` drops what is not used.
    gate_speed, tau, tau_end:  see Math.
    backbone, width, depth, dropout, backbone_params, head, head_hidden:  as in hps, for each encoder.
    """

    gate: str = "encoder"
    lite: bool = False
    gate_speed: float = 10.0
    tau: float = 5.0
    tau_end: float = 0.5

    def build(self, tasks: Sequence[Task], input_shape: tuple[int, ...]) -> nn.Module:
        if self.gate not in ("encoder", "decoder"):
            raise ValueError(f"smtl: gate is encoder or decoder, found {self.gate!r}")
        if not 0 < self.tau_end <= self.tau or self.gate_speed <= 0:
            raise ValueError("smtl: needs 0 < tau_end <= tau and a positive gate_speed")
        root = int(torch.randint(2**62, ()))
        public = drawn(root, "public", lambda: self.encoder(input_shape))
        private = {
            t.name: nn.Sequential(*drawn(root, f"private/{t.name}", lambda: self.encoder(input_shape))) for t in tasks
        }
        heads = self.heads(tasks, public[-1].shape, input_shape, root)
        return Safe(nn.Sequential(*public), nn.ModuleDict(private), heads, self).settle(input_shape)


class Safe(StagedModel):
    """The public encoder, private encoders, gates ``gates[task]`` (the a_t), heads. After ``export`` a task's gate is
    in ``kept``: whether it uses the public encoder."""

    gate_names = ("gates.",)

    def __init__(self, public: nn.Module, private: nn.ModuleDict, heads: nn.ModuleDict, spec: SMTL) -> None:
        super().__init__()
        self.public: nn.Module | None = public
        self.private, self.heads, self.spec = private, heads, spec
        self.gates = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in heads})
        self.kept: dict[str, bool] | None = None

    def alpha(self, task: str, ctx: Context) -> Tensor | float:
        """The share of the public encoder, now."""
        if ctx.phase == PRIVATE:
            return 0.0
        if self.kept is not None:
            return float(self.kept[task])
        logit = self.spec.gate_speed * self.gates[task]
        if not self.spec.lite:
            return torch.sigmoid(logit)
        if not self.training:
            return float(logit.detach() > 0)
        tau = self.spec.tau * (self.spec.tau_end / self.spec.tau) ** (ctx.step / max(1, ctx.total_steps))
        return F.gumbel_softmax(torch.stack((logit, torch.zeros_like(logit))), tau)[0]

    def forward(self, batch: Batch, ctx: Context) -> Output:
        shares = {task: self.alpha(task, ctx) for task in self.tasks}
        together = isinstance(batch.inputs, Tensor)
        wanted = [task for task, share in shares.items() if isinstance(share, Tensor) or share > 0]
        once = self._public(batch.inputs) if isinstance(batch.inputs, Tensor) and wanted else None
        found = {}
        for task, share in shares.items():
            x = batch.inputs if isinstance(batch.inputs, Tensor) else batch.inputs[task]
            public = once if together or task not in wanted else self._public(x)
            head = self.heads[task]
            if not isinstance(share, Tensor) and share == 1:
                assert public is not None
                found[task] = head(public)
                continue
            own = self.private[task](x)
            if task not in wanted or public is None:
                found[task] = head(own) + 0 * sum(self.gates.values()) if ctx.phase == PRIVATE else head(own)
            elif self.spec.gate == "encoder":
                found[task] = head(share * public + (1 - share) * own)
            else:
                found[task] = share * head(public) + (1 - share) * head(own)
        return Output(found)

    def _public(self, x: Tensor) -> Tensor:
        assert self.public is not None
        z: Tensor = self.public(x)
        return z

    def export(self) -> Safe:
        """Lite, in place: fix every gate to its likelier encoder and drop the encoders that none uses."""
        self.kept = {task: bool(gate > 0) for task, gate in self.gates.items()}
        for task, public in self.kept.items():
            if public:
                del self.private[task]
        if not any(self.kept.values()):
            self.public = None
        self.gates = nn.ParameterDict()
        self._roles = {name: self._roles[name] for name, _ in self.named_parameters()}
        return self
