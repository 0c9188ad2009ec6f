"""The façade: plain torch modules in, balanced and rank-averaged gradients out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtlfleet import registry
from mtlfleet.engine.agreement import BACKWARDS, Agreement
from mtlfleet.engine.approximate import APPROXIMATIONS, SketchGradients, UpperBoundGradients
from mtlfleet.engine.backward import Graph
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.factored import FactoredGradients
from mtlfleet.engine.gradients import Losses, Needs, Step, Weights
from mtlfleet.engine.info import StepInfo
from mtlfleet.engine.modules import declared, refuse_rows, refuse_wrappers
from mtlfleet.engine.outcome import NonFinite
from mtlfleet.engine.representation import Shown
from mtlfleet.engine.scaling import LossScale
from mtlfleet.engine.views import Held, StepGradients
from mtlfleet.errors import EngineRefused


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
    backward:       ``"sequential"``: K passes, one task's gradient alive at a time, from the representation if it is
    known;
                    ``"batched"``: ``chunk`` tasks per pass; ``"factored"``: the Gram without the weight gradients of
                    linear layers and convolutions, where that saves operations; ``"auto"``: the one of these that is
                    computed to be cheapest, from shapes alone. All are exact, and equal but for rounding.
    chunk:          tasks per batched pass; 0 is all of them. Their gradients are alive together.
    representation: the module whose output all heads read, if ``step`` is not told it as ``features``.
    approximate:    None; ``"ub"``: the Gram at the representation; ``"sketch"``: the Gram of random-sign sketches.
    every:          look at gradients in each ``every``-th step only; in between the last weights are used (labelled).
    loss_scale:     fp16: a number, or ``"dynamic"``; one factor on all losses, divided out before a method looks.
    process_group:  default: torch's default group if initialised, else a single process.
    seed:           address of the method's own random draws.

    Raises
    ------
    EngineRefused: the model is, or contains, a DistributedDataParallel or DataParallel wrapper. With K backward
    passes those
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
        chunk: int = 0,
        representation: nn.Module | None = None,
        approximate: str | None = None,
        every: int = 1,
        loss_scale: float | str | None = None,
        process_group: dist.ProcessGroup | None = None,
        seed: int = 0,
    ) -> None:
        refuse_wrappers(model)
        if backward not in BACKWARDS:
            raise ValueError(f"backward is one of {', '.join(BACKWARDS)}; found {backward!r}")
        if every < 1 or chunk < 0:
            raise ValueError(f"every is at least 1 and chunk at least 0; found {every} and {chunk}")
        if approximate not in (None, *APPROXIMATIONS):
            raise ValueError(f"approximate is None or one of {', '.join(APPROXIMATIONS)}; found {approximate!r}")
        self.model = model
        self.method = registry.build("method", method) if isinstance(method, str) else method
        self.exchange = Exchange(process_group, mode=exchange, wire=wire)
        self.seed = seed
        self.every = every
        self.steps = 0
        self.state: Any = None
        self.scale = LossScale.of(loss_scale)
        self._approximate = approximate
        refuse_rows(self.method, backward, approximate)
        chosen = declared(shared)
        self._agreed = Agreement(model, self.method, self.exchange, backward, chunk, approximate, chosen)
        self._rows: Tensor | None = None
        self._weights: Weights | None = None
        self._held: Held | None = None
        self._before: Losses | None = None
        self._shown = Shown(representation)
        self.exchange.broadcast([*model.parameters(), *model.buffers()])

    @property
    def reach(self) -> Reach:
        """Shared and task parameters as found. Raises RuntimeError before the first step."""
        return self._agreed.reach

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, sorted; empty before the first step."""
        return self._agreed.tasks

    def step(
        self,
        losses: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
        *,
        epoch: int = 0,
        features: Tensor | Sequence[Tensor | None] | None = None,
    ) -> StepInfo:
        """Fill ``.grad`` of every parameter that a loss reaches, averaged over ranks and balanced by the method.

        ``losses[task]`` is a scalar: the mean over this rank's samples (ranks are averaged with equal weight). A task
        may be
        absent on a rank or in a step: it counts as zero there. A method that asks for several batches gets a sequence
        of
        such mappings, one per batch; the last is the one whose gradient is written. ``features`` is the tensor (one per
        batch) that all heads read.
        """
        before = self.exchange.bytes_sent
        batches = [losses] if isinstance(losses, Mapping) else list(losses)
        self._expect(len(batches))
        told, somewhere = self._agreed.prepare(batches, self._shown.take(features, len(batches)))
        if self.state is None:
            self.state = self.method.init(len(self.tasks))
        at = Step(self.steps, epoch, self.seed)
        self.steps += 1
        grads = self._open(batches, told, somewhere, at)
        stale = self._weights if at.number % self.every else None
        try:
            self._agreed.record(False)
            if not torch.isfinite(torch.stack([torch.as_tensor(mean) for mean in told])).all():
                raise NonFinite("a loss is not finite")
            if stale is not None:
                state, status = self.state, f"weights of step {at.number - at.number % self.every}"
                grads.apply(stale)
            else:
                state, status = self.method.step(grads, self.state, at)
            norm = grads.finish()
        except NonFinite as reason:
            self.model.zero_grad(set_to_none=True)
            info = self._info(grads, 0.0, str(reason), before, skipped=True)
            self.scale.update(overflowed=True)
            return info
        finally:
            self._held = None
            self._agreed.record(True)
        self.state, self._before = state, told[-1]
        self._remember(grads)
        info = self._info(grads, norm, status, before, approximation=None if stale is None else "stale")
        self.scale.update(overflowed=False)
        return info

    def accumulate(self, losses: Mapping[str, Tensor], *, features: Tensor | None = None) -> None:
        """A micro-batch before the one that ``step`` gets: its task gradients are exchanged and added up, exactly.

        Losses are scaled by the user so that those of all micro-batches add up to the whole batch's. Memory stays
        K * P / W; bytes are K * P per micro-batch. Weights by losses take K passes, for they are known last.
        """
        if self.batches > 1 or self._approximate is not None or self._agreed.looks:
            raise EngineRefused(
                "accumulate adds up task gradients, and this engine computes none",
                notes=["several batches a step, approximations and backward='factored' or 'auto' do without them"],
                help="leave those options out",
            )
        told, somewhere = self._agreed.prepare([losses], self._shown.take(features, 1))
        opened = self._open([losses], told, somewhere, Step(self.steps, 0, self.seed))
        self._held = opened.hold() if isinstance(opened, StepGradients) else None

    @property
    def batches(self) -> int:
        """How many batches' losses a step takes."""
        return int(getattr(self.method, "batches", 1))

    @property
    def observes(self) -> bool:
        """Whether the method wants ``observe`` after the optimizer's step."""
        return bool(getattr(self.method, "observes", False))

    def observe(self, losses: Mapping[str, Tensor], *, epoch: int = 0) -> None:
        """The losses of the step's (last) batch again, after the optimizer's step; no gradients are needed.

        For methods that watch what a step did to the losses. Leave running statistics alone meanwhile:
        ``kept_buffers``.
        """
        if self._before is None:
            raise RuntimeError("observe follows a step")
        told = torch.tensor(
            [float(losses[task]) if task in losses else 0.0 for task in self.tasks], dtype=torch.float64
        )
        after = Losses(self.exchange.mean(told))
        if torch.isfinite(after).all():
            self.state = self.method.observe(self._before, after, self.state, Step(self.steps - 1, epoch, self.seed))

    def _expect(self, given: int) -> None:
        if given != self.batches:
            raise ValueError(
                f"method {self.method.name!r} takes losses of {self.batches} batches in a step; found {given}"
            )

    def _remember(self, grads: StepGradients | FactoredGradients) -> None:
        """What the next step may use again: weights, and the rows' memory where no method can have kept it."""
        if self.every > 1:
            if grads.weights is None:
                raise EngineRefused(
                    f"every={self.every} reuses a step's task weights, and method {self.method.name!r} has none",
                    help="leave `every` out, or take a method that weights tasks",
                )
            self._weights = Weights(grads.weights)
        self._rows = grads.buffer if self.method.needs is Needs.GRAM else None

    def _info(
        self,
        grads: StepGradients | FactoredGradients,
        norm: float,
        status: str,
        before: int,
        *,
        skipped: bool = False,
        approximation: str | None = None,
    ) -> StepInfo:
        return StepInfo(
            self.tasks,
            grads.losses,
            grads.weights,
            grads.seen_gram,
            norm,
            status,
            skipped,
            self.exchange.bytes_sent - before,
            backward=self._agreed.told(grads.way),
            approximation=approximation or (self._approximate if grads.seen_gram is not None else None),
            loss_scale=self.scale.scale,
        )

    def _open(
        self, batches: Sequence[Mapping[str, Tensor]], told: Sequence[Losses], somewhere: Sequence[list[bool]], at: Step
    ) -> StepGradients | FactoredGradients:
        agreed = self._agreed
        if self._rows is not None and not agreed.holds(self._rows):
            self._rows = None
        opened: list[StepGradients] = []
        kind = {None: StepGradients, "ub": UpperBoundGradients, "sketch": SketchGradients}[self._approximate]
        for place, losses in enumerate(batches):
            z = self._shown.z[place] if agreed.behind else None
            graph = Graph(losses, agreed.reach, self.exchange.world, self.scale.scale, z, agreed.width)
            if agreed.factors is not None:
                return FactoredGradients(graph, told[0], agreed.factors, agreed.calls, self.exchange, self.method.heads)
            buffer = self._rows if place == len(batches) - 1 else None
            view = kind(
                graph,
                told[place],
                agreed.plan,
                self.exchange,
                self.method.heads,
                somewhere[place],
                buffer,
                agreed.behind,
                self._held,
            )
            if isinstance(view, SketchGradients):
                view.key = (self.seed, at.number)
            opened.append(view)
        opened[-1].batches = tuple(opened)
        return opened[-1]

    def clip_(self, max_norm: float) -> float:
        """Scale all ``.grad`` so that their joint norm is at most ``max_norm``; gives the norm before. No
        communication:
        every rank holds the same gradients."""
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def state_dict(self) -> dict[str, Any]:
        """Method state, step counter and tasks; tensors and plain values only."""
        return {
            "method": self.method.pack(self.state),
            "steps": self.steps,
            "tasks": list(self.tasks),
            "weights": self._weights,
            "loss_scale": [self.scale.scale, self.scale.good],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._agreed.tasks = tuple(state["tasks"])
        self.steps = int(state["steps"])
        self._weights = state["weights"]
        self.scale.scale, self.scale.good = state["loss_scale"]
        self.state = self.method.unpack(state["method"], len(self.tasks)) if self.tasks else None
