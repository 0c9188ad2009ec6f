"""The façade: plain torch modules in, balanced and rank-averaged gradients out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mtlfleet import registry
from mtlfleet.engine.approximate import APPROXIMATIONS, SketchGradients, UpperBoundGradients
from mtlfleet.engine.backward import Graph
from mtlfleet.engine.collect import Plan
from mtlfleet.engine.discovery import Reach, discover, lies_behind
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.factored import FactoredGradients, Factors
from mtlfleet.engine.gradients import Losses, Needs, Step
from mtlfleet.engine.info import StepInfo
from mtlfleet.engine.linear import Call, Recorder
from mtlfleet.engine.outcome import NonFinite
from mtlfleet.engine.representation import refuse_without
from mtlfleet.engine.scaling import LossScale
from mtlfleet.engine.views import StepGradients
from mtlfleet.errors import EngineRefused


BACKWARDS = ("sequential", "batched", "factored", "auto")


class GradientEngine:
    """Exact per-task gradients, averaged over all ranks before a method sees them.

    Parameters
    ----------
    model:          a plain ``nn.Module``; its parameters and buffers are broadcast from rank 0 once.
    method:         a registry name (``"cagrad"``, ``"cagrad@nash"``) or a method object.
    shared:         ``"auto"`` finds the shared parameters from the graph; or a module, or parameters, declared shared.
    exchange:       ``"auto"`` (all-to-all on gloo, reduce-scatter on NCCL), ``"a2a"``, ``"reduce_scatter"``, ``"allreduce"``.
    wire:           ``"fp32"`` or ``"bf16"``: the type in which task gradients travel.
    backward:       ``"sequential"``: K passes, one task's gradient alive at a time, from the representation if it is known;
                    ``"batched"``: ``chunk`` tasks per pass; ``"factored"``: the Gram without the weight gradients of linear
                    layers, where that saves operations; ``"auto"``: factored if it is computed to be cheaper. All are exact.
    chunk:          tasks per batched pass; 0 is all of them. Their gradients are alive together.
    representation: the module whose output all heads read, if ``step`` is not told it as ``features``.
    approximate:    None; ``"ub"``: the Gram at the representation; ``"sketch"``: the Gram of random-sign sketches.
    every:          look at gradients in each ``every``-th step only; in between the last weights are used (labelled).
    loss_scale:     fp16: a number, or ``"dynamic"``; one factor on all losses, divided out before a method looks.
    process_group:  default: torch's default group if initialised, else a single process.
    seed:           address of the method's own random draws.

    Raises
    ------
    EngineRefused: the model is, or contains, a DistributedDataParallel or DataParallel wrapper. With K backward passes those
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
        self.tasks: tuple[str, ...] = ()
        self.scale = LossScale.of(loss_scale)
        self._backward, self._chunk = backward, chunk
        self._approximate = approximate
        _refuse_rows(self.method, backward, approximate)
        looks = backward in ("factored", "auto") and self.method.needs is Needs.GRAM and approximate is None
        self._recorder = Recorder(model) if looks else None
        self._factors: Factors | None = None
        self._calls: dict[str, list[Call]] = {}
        self._width = 0
        self._declared = _declared(shared)
        self._reach: Reach | None = None
        self._signature: object = None
        self._plan: Plan | None = None
        self._behind = False
        self._rows: Tensor | None = None
        self._weights: Tensor | None = None
        self._captured: list[Tensor] = []
        if representation is not None:
            representation.register_forward_hook(self._capture)
        self.exchange.broadcast([*model.parameters(), *model.buffers()])

    def _capture(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if torch.is_grad_enabled() and isinstance(output, Tensor) and output.requires_grad:
            self._captured.append(output)

    @property
    def reach(self) -> Reach:
        """Shared and task parameters as found. Raises RuntimeError before the first step."""
        if self._reach is None:
            raise RuntimeError("what is shared is known after the first step")
        return self._reach

    def step(
        self,
        losses: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
        *,
        epoch: int = 0,
        features: Tensor | Sequence[Tensor] | None = None,
    ) -> StepInfo:
        """Fill ``.grad`` of every parameter that a loss reaches, averaged over ranks and balanced by the method.

        ``losses[task]`` is a scalar: the mean over this rank's samples (ranks are averaged with equal weight). A task may be
        absent on a rank or in a step: it counts as zero there. A method that asks for several batches gets a sequence of
        such mappings, one per batch; the last is the one whose gradient is written. ``features`` is the tensor (one per
        batch) that all heads read.
        """
        before = self.exchange.bytes_sent
        batches = [losses] if isinstance(losses, Mapping) else list(losses)
        self._expect(len(batches))
        told, somewhere = self._prepare(batches, self._representations(features, len(batches)))
        at = Step(self.steps, epoch, self.seed)
        self.steps += 1
        grads = self._open(batches, told, somewhere, at)
        stale = self._weights is not None and at.number % self.every != 0
        try:
            self._record(False)
            if not torch.isfinite(torch.stack([torch.as_tensor(mean) for mean in told])).all():
                raise NonFinite("a loss is not finite")
            if stale:
                state, status = self.state, f"weights of step {at.number - at.number % self.every}"
                grads.apply(self._weights)
            else:
                state, status = self.method.step(grads, self.state, at)
            norm = grads.finish()
        except NonFinite as reason:
            self.model.zero_grad(set_to_none=True)
            info = self._info(grads, 0.0, str(reason), before, skipped=True)
            self.scale.update(overflowed=True)
            return info
        finally:
            self._record(True)
        self.state = state
        self._remember(grads)
        info = self._info(grads, norm, status, before, approximation="stale" if stale else None)
        self.scale.update(overflowed=False)
        return info

    def _record(self, recording: bool) -> None:
        """Layers called again inside a backward pass (checkpoints) are not noted."""
        if self._recorder is not None:
            self._recorder.recording = recording

    def _expect(self, given: int) -> None:
        wanted = int(getattr(self.method, "batches", 1))
        if given != wanted:
            raise ValueError(f"method {self.method.name!r} takes the losses of {wanted} batches in a step; found {given}")

    def _remember(self, grads: StepGradients | FactoredGradients) -> None:
        """What the next step may use again: weights, and the rows' memory where no method can have kept it."""
        if self.every > 1:
            if grads.weights is None:
                raise EngineRefused(
                    f"every={self.every} reuses a step's task weights, and method {self.method.name!r} has none",
                    help="leave `every` out, or take a method that weights tasks",
                )
            self._weights = grads.weights
        self._rows = grads.buffer if self.method.needs is Needs.GRAM else None

    def _info(
        self, grads: StepGradients | FactoredGradients, norm: float, status: str, before: int, *, skipped: bool = False, approximation: str | None = None
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
            backward=grads.way,
            approximation=approximation or (self._approximate if grads.seen_gram is not None else None),
            loss_scale=self.scale.scale,
        )

    def _representations(self, features: Tensor | Sequence[Tensor] | None, batches: int) -> list[Tensor | None]:
        captured, self._captured = self._captured, []
        given = captured[-batches:] if features is None else [features] if isinstance(features, Tensor) else list(features)
        if given and len(given) != batches:
            raise ValueError(f"one representation per batch: {batches} batches, found {len(given)}")
        self._z: list[Tensor | None] = [z if z.requires_grad else None for z in given] or [None] * batches
        return self._z

    def _open(
        self, batches: Sequence[Mapping[str, Tensor]], told: Sequence[Losses], somewhere: Sequence[list[bool]], at: Step
    ) -> StepGradients | FactoredGradients:
        assert self._reach is not None
        assert self._plan is not None
        opened: list[StepGradients] = []
        for place, losses in enumerate(batches):
            z = self._z[place] if self._behind else None
            graph = Graph(losses, self._reach, self.exchange.world, self.scale.scale, z, self._width)
            if self._factors is not None:
                return FactoredGradients(graph, told[0], self._factors, self._calls, self.exchange, self.method.heads)
            buffer = self._rows if place == len(batches) - 1 else None
            kind = {None: StepGradients, "ub": UpperBoundGradients, "sketch": SketchGradients}[self._approximate]
            view = kind(
                graph, told[place], self._plan, self.exchange, self.method.heads, somewhere[place], buffer, self._behind
            )
            if isinstance(view, SketchGradients):
                view.key = (self.seed, at.number)
            opened.append(view)
        opened[-1].batches = tuple(opened)
        return opened[-1]

    def _prepare(
        self, batches: Sequence[Mapping[str, Tensor]], zs: Sequence[Tensor | None]
    ) -> tuple[list[Losses], list[list[bool]]]:
        """Average the losses over ranks; find tasks, shared parameters and layouts when the graph may have changed.

        Whether it changed is agreed in the same all-reduce: one rank that sees a new task makes all of them look again.
        """
        names = sorted({task for losses in batches for task in losses})
        if not self.tasks:
            self.tasks = self.exchange.union(names)
            if not self.tasks:
                raise ValueError("step needs at least one task's loss")
        if missing := set(names) - set(self.tasks):
            raise ValueError(f"tasks {sorted(missing)} appear after the first step; known: {', '.join(self.tasks)}")
        if self.state is None:
            self.state = self.method.init(len(self.tasks))
        self._calls = self._recorder.take() if self._recorder is not None else {}
        calls = tuple((name, len(made), all(call.intact for call in made)) for name, made in self._calls.items())
        requires = (p.requires_grad for p in self.model.parameters())
        present = tuple(tuple(sorted(losses)) for losses in batches)
        signature = (present, self.model.training, tuple(z is not None for z in zs), calls, *requires)
        tasks = len(self.tasks)
        told = torch.zeros(2 * len(batches) * tasks + 1, dtype=torch.float64)
        told[-1] = float(signature != self._signature)
        values = told[:-1].view(len(batches), 2, tasks)
        for place, losses in enumerate(batches):
            for k, task in enumerate(self.tasks):
                if task in losses:
                    values[place, 0, k] = losses[task].detach().to(torch.float64).cpu()
                    values[place, 1, k] = float(losses[task].requires_grad)
        told = self.exchange.mean(told)
        values = told[:-1].view(len(batches), 2, tasks)
        if told[-1] > 0:
            self._discover(batches, zs)
            self._signature = signature
        return [Losses(part[0].clone()) for part in values], [(part[1] > 0).tolist() for part in values]

    def _discover(self, batches: Sequence[Mapping[str, Tensor]], zs: Sequence[Tensor | None]) -> None:
        merged = {task: loss for losses in batches for task, loss in losses.items()}
        self._reach = discover(self.model, merged, self.tasks, self.exchange, self._declared, self._reach)
        if not self._reach.shared:
            raise ValueError("no parameter is reached by two tasks: there is nothing to balance")
        pairs = zip(zs, batches, strict=True)
        self._width = max((z[0].numel() for z in zs if z is not None and len(z)), default=0)
        apart = any(losses and (z is None or not lies_behind(z, losses, self._reach.shared)) for z, losses in pairs)
        agreed = self.exchange.maximum(torch.tensor([float(apart), float(self._width)]))
        self._behind, self._width = not float(agreed[0]), int(agreed[1])
        if self._approximate == "ub" or self.method.needs is Needs.REPRESENTATION:
            refuse_without(self._behind, "ub" if self._approximate else f"method {self.method.name!r}")
        tasks = len(self.tasks)
        chunk = (self._chunk or tasks) if self._backward == "batched" else 0
        self._factors = None
        if self._recorder is not None:
            found = Factors.of(self._reach, self._recorder, self._calls, list(merged.values()), self.exchange)
            if found.layers and (self._backward == "factored" or found.fits(len(self.tasks))):
                self._factors, self._plan, self._rows = found, found.whole, None
                return
        if self._plan is None or self._plan.chunk != chunk or not self._plan.fits(self._reach):
            self._plan, self._rows = Plan.of(self._reach, self.exchange, chunk), None

    def clip_(self, max_norm: float) -> float:
        """Scale all ``.grad`` so that their joint norm is at most ``max_norm``; gives the norm before. No communication:
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
        self.tasks = tuple(state["tasks"])
        self.steps = int(state["steps"])
        self._weights = state["weights"]
        self.scale.scale, self.scale.good = state["loss_scale"]
        self.state = self.method.unpack(state["method"], len(self.tasks)) if self.tasks else None


def refuse_wrappers(model: nn.Module) -> None:
    """Raise EngineRefused if the model or any part of it is wrapped for data parallelism by torch."""
    for name, module in model.named_modules():
        if isinstance(module, DistributedDataParallel | DataParallel):
            what = type(module).__name__
            raise EngineRefused(
                f"the model{f' part `{name}`' if name else ''} is wrapped in {what}; the engine needs plain modules",
                notes=[
                    "several backward passes through DistributedDataParallel fail, or with find_unused_parameters=True leave "
                    "a different gradient on each rank, without an error"
                ],
                help="pass the wrapped module itself (`model.module`): the engine averages over ranks on its own",
            )


def _refuse_rows(method: Any, backward: str, approximate: str | None) -> None:
    """Raise EngineRefused for a method that asks for task gradients where there will be none."""
    what = f"approximate={approximate!r}" if approximate else "backward='factored'" if backward == "factored" else ""
    if what and method.needs is Needs.ROWS:
        raise EngineRefused(
            f"method {method.name!r} looks at the task gradients themselves, and {what} computes only their Gram",
            help="leave the option out: the default is exact and gives every method what it asks for",
        )


def _declared(shared: str | nn.Module | Sequence[nn.Parameter]) -> Sequence[nn.Parameter] | None:
    if isinstance(shared, nn.Module):
        return tuple(shared.parameters())
    if isinstance(shared, str):
        if shared != "auto":
            raise ValueError(f"shared is 'auto', a module, or parameters; found {shared!r}")
        return None
    return tuple(shared)
