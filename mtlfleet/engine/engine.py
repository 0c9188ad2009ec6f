"""The façade: plain torch modules in, balanced and rank-averaged gradients out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mtlfleet import registry
from mtlfleet.engine.discovery import Reach, discover
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Losses, Step
from mtlfleet.engine.layout import Layout
from mtlfleet.engine.views import NonFinite, StepGradients, block_gram
from mtlfleet.errors import EngineRefused


@dataclass(frozen=True)
class StepInfo:
    """What one step did. Tensors are CPU float64 and equal on every rank.

    losses [K]; weights [K] or None (elementwise methods); gram [K, K] or None (not asked for); ``update_norm``
    the Euclidean norm of the shared gradient; ``status`` the method's word; ``skipped`` when a non-finite number was
    found, in which case no ``.grad`` is set and the method's state is as before.
    """

    tasks: tuple[str, ...]
    losses: Tensor
    weights: Tensor | None
    gram: Tensor | None
    update_norm: float
    status: str
    skipped: bool
    bytes_sent: int

    @property
    def norms(self) -> Tensor | None:
        """[K] norms of the averaged task gradients."""
        return None if self.gram is None else self.gram.diagonal().clamp_min(0).sqrt()

    @property
    def cosines(self) -> Tensor | None:
        """[K, K] cosines between averaged task gradients; zero where a gradient is zero."""
        norms = self.norms
        if norms is None or self.gram is None:
            return None
        scale = norms[:, None] * norms[None, :]
        return torch.where(scale > 0, self.gram / scale.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


class GradientEngine:
    """Exact per-task gradients, averaged over all ranks before a method sees them.

    Parameters
    ----------
    model:          a plain ``nn.Module``; its parameters and buffers are broadcast from rank 0 once.
    method:         a registry name (``"cagrad"``, ``"cagrad@nash"``) or a method object.
    shared:         ``"auto"`` finds the shared parameters from the graph; or a module, or parameters, declared shared.
    exchange:       ``"auto"`` (all-to-all on gloo, reduce-scatter on NCCL), ``"a2a"``, ``"reduce_scatter"``,
                    ``"allreduce"``.
    wire:           ``"fp32"`` or ``"bf16"``: the type in which task gradients travel.
    backward:       ``"sequential"``: K passes, one task's gradient alive at a time.
    process_group:  default: torch's default group if initialised, else a single process.
    seed:           address of the method's own random draws.

    Raises
    ------
    EngineRefused: the model is, or contains, a DistributedDataParallel or DataParallel wrapper. With K backward passes
    those
        either fail or, with ``find_unused_parameters=True``, go on with different gradients on each rank.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Any,
        *,
        shared: str | nn.Module | Sequence[nn.Parameter] = "auto",
        exchange: str = "auto",
        wire: str = "fp32",
        backward: str = "sequential",
        process_group: dist.ProcessGroup | None = None,
        seed: int = 0,
    ) -> None:
        refuse_wrappers(model)
        if backward != "sequential":
            raise ValueError(f"backward is 'sequential'; found {backward!r}")
        self.model = model
        self.method = registry.build("method", method) if isinstance(method, str) else method
        self.exchange = Exchange(process_group, mode=exchange, wire=wire)
        self.seed = seed
        self.steps = 0
        self.state: Any = None
        self.tasks: tuple[str, ...] = ()
        self._declared = _declared(shared)
        self._reach: Reach | None = None
        self._signature: object = None
        self._layouts: tuple[Layout, Layout | None] | None = None
        self.exchange.broadcast([*model.parameters(), *model.buffers()])

    @property
    def reach(self) -> Reach:
        """Shared and task parameters as found. Raises RuntimeError before the first step."""
        if self._reach is None:
            raise RuntimeError("what is shared is known after the first step")
        return self._reach

    def step(self, losses: Mapping[str, Tensor], *, epoch: int = 0) -> StepInfo:
        """Fill ``.grad`` of every parameter that a loss reaches, averaged over ranks and balanced by the method.

        ``losses[task]`` is a scalar: the mean over this rank's samples (ranks are averaged with equal weight). A task
        may be absent on a rank or in a step: it counts as zero there.
        """
        before = self.exchange.bytes_sent
        means = self._prepare(losses)
        assert self._reach is not None
        assert self._layouts is not None
        at = Step(self.steps, epoch, self.seed)
        self.steps += 1
        grads = StepGradients(losses, means, self._reach, self._layouts, self.exchange, self.method.heads)
        try:
            if not torch.isfinite(means).all():
                raise NonFinite("a loss is not finite")
            state, status = self.method.step(grads, self.state, at)
            direction = grads.finish()
        except NonFinite as reason:
            self.model.zero_grad(set_to_none=True)
            return self._info(grads, 0.0, str(reason), True, before)
        self.state = state
        norm = float(block_gram(direction[None, :]).sqrt())
        return self._info(grads, norm, status, False, before)

    def _info(self, grads: StepGradients, norm: float, status: str, skipped: bool, before: int) -> StepInfo:
        sent = self.exchange.bytes_sent - before
        return StepInfo(self.tasks, grads.losses, grads.weights, grads.seen_gram, norm, status, skipped, sent)

    def _prepare(self, losses: Mapping[str, Tensor]) -> Losses:
        """Average the losses over ranks; find tasks, shared parameters and layouts when the graph may have changed.

        Whether it changed is agreed in the same all-reduce: one rank that sees a new task makes all of them look again.
        """
        for task, loss in losses.items():
            if loss.numel() != 1:
                raise ValueError(f"the loss of task {task!r} must be a scalar; found shape {tuple(loss.shape)}")
        if not self.tasks:
            self.tasks = self.exchange.union(tuple(losses))
        if missing := set(losses) - set(self.tasks):
            raise ValueError(f"tasks {sorted(missing)} appear after the first step; known: {', '.join(self.tasks)}")
        if self.state is None:
            self.state = self.method.init(len(self.tasks))
        signature = (tuple(sorted(losses)), self.model.training, *(p.requires_grad for p in self.model.parameters()))
        told = torch.zeros(len(self.tasks) + 1, dtype=torch.float64)
        told[-1] = float(signature != self._signature)
        for k, task in enumerate(self.tasks):
            if task in losses:
                told[k] = losses[task].detach().to(torch.float64).cpu()
        told = self.exchange.mean(told)
        if told[-1] > 0:
            self._discover(losses)
            self._signature = signature
        return Losses(told[:-1])

    def _discover(self, losses: Mapping[str, Tensor]) -> None:
        self._reach = discover(self.model, losses, self.tasks, self.exchange, self._declared, self._reach)
        if not self._reach.shared:
            raise ValueError("no parameter is reached by two tasks: there is nothing to balance")
        own = self._reach.own_parameters
        self._layouts = (Layout.of(self._reach.shared, self.exchange.world), Layout.of(own, 1) if own else None)

    def clip_(self, max_norm: float) -> float:
        """Scale all ``.grad`` so that their joint norm is at most ``max_norm``; gives the norm before. No
        communication: every rank holds the same gradients."""
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def state_dict(self) -> dict[str, Any]:
        """Method state, step counter and tasks; tensors and plain values only."""
        return {"method": self.method.pack(self.state), "steps": self.steps, "tasks": list(self.tasks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.tasks = tuple(state["tasks"])
        self.steps = int(state["steps"])
        self.state = self.method.unpack(state["method"], len(self.tasks)) if self.tasks else None


def refuse_wrappers(model: nn.Module) -> None:
    """Raise EngineRefused if the model or any part of it is wrapped for data parallelism by torch."""
    for name, module in model.named_modules():
        if isinstance(module, DistributedDataParallel | DataParallel):
            what = type(module).__name__
            raise EngineRefused(
                f"the model{f' part `{name}`' if name else ''} is wrapped in {what}; the engine needs plain modules",
                notes=[
                    "several backward passes through the wrapper fail, or silently leave other gradients on each rank"
                ],
                help="pass the wrapped module itself (`model.module`): the engine averages over ranks on its own",
            )


def _declared(shared: str | nn.Module | Sequence[nn.Parameter]) -> Sequence[nn.Parameter] | None:
    if isinstance(shared, nn.Module):
        return tuple(shared.parameters())
    if isinstance(shared, str):
        if shared != "auto":
            raise ValueError(f"shared is 'auto', a module, or parameters; found {shared!r}")
        return None
    return tuple(shared)
