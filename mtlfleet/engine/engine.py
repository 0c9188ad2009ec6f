"""The façade: plain torch modules in, balanced and rank-averaged gradients out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtlfleet import registry
from mtlfleet.engine.accumulation import MicroBatches
from mtlfleet.engine.agreement import Agreement
from mtlfleet.engine.compiled import kept_graphs
from mtlfleet.engine.discovery import Reach
from mtlfleet.engine.elementwise import Make
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.gradients import Losses, Step, Weights
from mtlfleet.engine.info import StepInfo, made, reported
from mtlfleet.engine.microbatches import refuse_accumulation
from mtlfleet.engine.modules import (
    batches_of,
    check_options,
    cut_shared,
    declared,
    expect_batches,
    refuse_rows,
    refuse_unweighted,
    refuse_wrappers,
)
from mtlfleet.engine.opening import Opening, View
from mtlfleet.engine.outcome import NonFinite
from mtlfleet.engine.representation import Shown
from mtlfleet.engine.scaling import LossScale
from mtlfleet.engine.sharded import Options, ShardedOptimizer, refuse_cutting
from mtlfleet.engine.skips import Skips
from mtlfleet.engine.views import StepGradients
from mtlfleet.engine.watching import Effect, Watch
from mtlfleet.errors import EngineRefused

Batches = Sequence[Mapping[str, Tensor]]
Features = Tensor | Sequence[Tensor | None] | None
Prepared = tuple[list[Losses], list[list[bool]]]  # each batch's mean losses; which tasks are there on some rank


class GradientEngine:
    """Exact per-task gradients, averaged over all ranks before a method sees them.

    Parameters
    ----------
    model:          a plain ``nn.Module``; its parameters and buffers are broadcast from rank 0 once.
    method:         a registry name (``"cagrad"``, ``"cagrad@nash"``) or a method object.
    shared:         ``"auto"`` finds the shared parameters from the graph; or a module, or parameters, declared shared.
    exchange:       ``"auto"`` (all-to-all on gloo, reduce-scatter on NCCL), ``"a2a"``, ``"reduce_scatter"`` or
                    ``"allreduce"``.
    wire:           ``"fp32"`` or ``"bf16"``: the type in which task gradients travel.
    backward:       ``"sequential"``: K passes, one task's gradient alive at a time, from the representation if that is
                    known; ``"batched"``: ``chunk`` tasks per pass; ``"factored"``: the Gram without the weight
                    gradients of linear layers and convolutions, where that saves operations; ``"auto"``: the one of
                    these that is computed to be cheapest, from shapes alone; ``"measured"``: the one whose first steps
                    turn out fastest. All are exact, and equal but for rounding.
    chunk:          tasks per batched pass; 0 is all of them. Their gradients are alive together.
    representation: the module whose output all heads read, if ``step`` is not told it as ``features``.
    approximate:    None; ``"ub"``: the Gram at the representation; ``"sketch"``: the Gram of random-sign sketches.
    every:          look at gradients in each ``every``-th step only; in between the last weights are used (labelled).
    accumulation:   what ``accumulate`` does. ``"reduce"``: exchange each micro-batch's task gradients; ``"local"``: add
                    them up here and exchange once (both exact); ``"first"``: weights of the first for all (labelled).
    loss_scale:     fp16: a number, or ``"dynamic"``; one factor on all losses, divided out before a method looks.
    max_skips:      more steps in a row with non-finite numbers than this raise ``Diverged`` on every rank; None: never.
    process_group:  default: torch's default group if initialised, else a single process.
    seed:           address of the method's own random draws.
    tasks:          all tasks, in the order of the method's per-task settings; else those of the first step, sorted.

    Raises
    ------
    EngineRefused: the model is, or contains, a DistributedDataParallel or DataParallel wrapper. With K backward passes
        those either fail or, with ``find_unused_parameters=True``, go on with different gradients on each rank. Or the
        options leave the method without what it looks at.
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
        accumulation: str = "reduce",
        loss_scale: float | str | None = None,
        max_skips: int | None = None,
        process_group: dist.ProcessGroup | None = None,
        seed: int = 0,
        tasks: Sequence[str] = (),
    ) -> None:
        refuse_wrappers(model)
        check_options(backward, every, chunk, approximate)
        self.model = model
        self.method = registry.build("method", method) if isinstance(method, str) else method
        self.exchange = Exchange(process_group, mode=exchange, wire=wire)
        self.seed = seed
        self.every = every
        self.steps = 0
        self.state: Any = None
        self.scale = LossScale.of(loss_scale)
        self.skips = Skips.of(max_skips)
        self._approximate = approximate
        refuse_rows(self.method, backward, approximate)
        chosen = declared(shared)
        self._agreed = Agreement(model, self.method, self.exchange, backward, chunk, approximate, chosen)
        self._agreed.tasks = tuple(tasks)
        self._weights: Weights | None = None
        self._micro = MicroBatches(accumulation)
        if accumulation != "reduce":
            self._refuse_accumulation()
        self._sharded: ShardedOptimizer | None = None
        self._before: Losses | None = None
        self._shown = shown = Shown(representation)
        self._opening = Opening(self._agreed, shown, self.exchange, self.method, self.scale, self._micro, approximate)
        self.exchange.broadcast([*model.parameters(), *model.buffers()])

    @property
    def reach(self) -> Reach:
        """Shared and task parameters as found. Raises RuntimeError before the first step."""
        return self._agreed.reach

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, as given or else sorted; empty before the first step if they were not."""
        return self._agreed.tasks

    def step(
        self,
        losses: Mapping[str, Tensor] | Batches,
        *,
        epoch: int = 0,
        features: Features = None,
        watch: Watch | None = None,
    ) -> StepInfo:
        """Fill ``.grad`` of every parameter that a loss reaches, averaged over ranks and balanced by the method.

        ``losses[task]`` is a scalar: the mean over this rank's samples (ranks are averaged with equal weight). A task
        may be absent on a rank or in a step: it counts as zero there. A method that asks for several batches gets a
        sequence of such mappings, one per batch; the last is the one whose gradient is written. ``features`` is the
        tensor (one per batch) that all heads read. Raises Diverged after too many skipped steps in a row.

        ``watch``, the same on all ranks, adds ``gram`` and ``descents`` to what is told, and changes nothing else:
        ``"held"`` from rows that the method looked at, ``"passes"`` by K more passes where it looks at losses or at the
        representation. ``"passes"`` raises EngineRefused with micro-batches and under ``approximate``.
        """
        before = self._micro.sent_before if self._micro.open else self.exchange.bytes_sent
        batches = [losses] if isinstance(losses, Mapping) else list(losses)
        expect_batches(self.method, len(batches))
        at = Step(self.steps, epoch, self.seed)
        alone = len(batches) == 1 and not self._micro.open
        told, somewhere = self._prepare(batches, features, ahead=alone and not self._stale(at))
        contest = self._agreed.contest
        if contest is not None:
            contest.begin()
        self.steps += 1
        grads = self._opening.open(batches, told, somewhere, at)
        try:
            rows = self._opening.watch(batches, somewhere, watch)
            with kept_graphs():
                self._agreed.record(False)
                state, status, label = self._micro.conclude(grads, lambda view: self._decide(view, at, told))
                norm = cut_shared(self.reach.shared, grads.finish(), getattr(self.method, "shared_norm", None))
        except NonFinite as reason:
            return self._skip(grads, at, str(reason), before)
        finally:
            self._micro.clear()
            self._agreed.record(True)
        self.state, self._before = state, told[-1]
        self._remember(grads)
        seen = self._opening.effect(grads, rows) if watch is not None else None
        if self._sharded is not None and grads.outcome.shard is not None:
            self._sharded.take(self._agreed.plan, grads.outcome.shard, norm)
        self.skips.took()
        info = self._info(grads, before, seen, update_norm=norm, status=status, approximation=label, skipped=False)
        self.scale.update(overflowed=False)
        if contest is not None and grads.way != "weighted":
            contest.end()
        return info

    def _prepare(self, batches: Batches, features: Features, *, ahead: bool = False) -> Prepared:
        """``ahead``: the method will look at this one batch's task gradients as at the last step's."""
        say = self._opening.speaker(batches[0], ahead)
        found = self._agreed.prepare(batches, self._shown.take(features, len(batches)), say)
        if self.state is None:
            self.state = self.method.init(len(self.tasks))
        return found

    def _decide(self, view: Any, at: Step, told: Sequence[Losses] = ()) -> tuple[Any, str, str | None]:
        """The method looks, or its last weights serve again: (next state, the solver's word, how it approximates)."""
        if not torch.isfinite(torch.stack([view.losses, *told])).all():
            raise NonFinite("a loss is not finite")
        if self._stale(at) and self._weights is not None:
            view.apply(self._weights)
            return self.state, f"weights of step {at.number - at.number % self.every}", "stale"
        return (*self.method.step(view, self.state, at), None)

    def _stale(self, at: Step) -> bool:
        """Whether the last weights serve in this step."""
        return at.number % self.every > 0 and self._weights is not None

    def _skip(self, grads: View, at: Step, reason: str, before: int) -> StepInfo:
        """No gradient, the state as it was; the end if that has happened too often in a row."""
        self.model.zero_grad(set_to_none=True)
        if self._sharded is not None:
            self._sharded.zero_grad()
        self.skips.count()
        info = self._info(grads, before, None, update_norm=0.0, status=reason, approximation=None, skipped=True)
        self.scale.update(overflowed=True)
        self.skips.enforce(at.number, reason)
        return info

    def accumulate(self, losses: Mapping[str, Tensor], *, epoch: int = 0, features: Tensor | None = None) -> None:
        """A micro-batch before the one that ``step`` gets; what is done with it, ``accumulation`` says.

        Losses are scaled by the user so that those of all micro-batches add up to the whole batch's. Weights by losses
        take K passes per micro-batch where the way is exact, for they are known last. ``StepInfo.losses`` and
        ``bytes_sent`` are of all micro-batches. Raises EngineRefused where task gradients do not add up.
        """
        self._refuse_accumulation()
        self._agreed.add_up()
        before = self.exchange.bytes_sent
        told, somewhere = self._prepare([losses], features)
        at = Step(self.steps, epoch, self.seed)
        view = self._opening.open([losses], told, somewhere, at, last=False)
        assert isinstance(view, StepGradients)
        with kept_graphs():
            self._micro.take(view, lambda view: self._decide(view, at), before)

    def _refuse_accumulation(self) -> None:
        plain = self.batches == 1 and self._approximate is None and self._agreed.adds_up
        refuse_accumulation(self.method, self._micro.way, plain)

    @property
    def batches(self) -> int:
        """How many batches' losses a step takes."""
        return batches_of(self.method)

    @property
    def observes(self) -> bool:
        """Whether the method wants ``observe`` after the optimizer's step."""
        return bool(getattr(self.method, "observes", False))

    def observe(self, losses: Mapping[str, Tensor], *, epoch: int = 0) -> None:
        """The losses of the step's (last) batch again, after the optimizer's step; no gradients are needed.

        For methods that watch what a step did to the losses. Leave running statistics alone meanwhile: see
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

    def _remember(self, grads: View) -> None:
        """What the next step may use again: weights, and the rows' memory where no method can have kept it."""
        if self.every > 1:
            if grads.weights is None:
                refuse_unweighted(self.method, self.every)
            self._weights = Weights(grads.weights)
        self._opening.keep(grads)

    def _info(self, view: View, before: int, seen: Effect | None, **facts: Any) -> StepInfo:
        if facts["approximation"] is None and view.seen_gram is not None:
            facts["approximation"] = self._approximate
        report = {} if facts["skipped"] else reported(self.method, self.state)
        facts |= {"loss_scale": self.scale.scale, "skips": self.skips.in_a_row}
        return made(view, self._agreed, report, seen, bytes_sent=self.exchange.bytes_sent - before, **facts)

    def sharded_optimizer(self, make: Make, *, options: Options | None = None) -> ShardedOptimizer:
        """An optimizer that keeps 1/W of its state for the shared parameters on each rank (ZeRO stage 1).

        ``make`` turns parameters into an elementwise optimizer: ``lambda parameters: AdamW(parameters, lr=1e-3)``. It
        is called on small matrices first, to see that it is one. ``options(name, parameter)`` gives what differs for a
        parameter: ``{"weight_decay": 0.0}`` for biases. From here on shared parameters get no ``.grad``: the gradient
        stays in shards, and the optimizer's step gathers the parameters, where otherwise the engine's step gathers the
        gradient. Raises EngineRefused for an optimizer that is not elementwise.
        """
        if self._sharded is not None:
            raise EngineRefused("this engine's gradients go to a sharded optimizer already: it has one")
        refuse_cutting(self.method)
        self._sharded = ShardedOptimizer(self.model, self.exchange, make, options)
        self._opening.keeps_shard = True
        return self._sharded

    def clip_(self, max_norm: float) -> float:
        """Scale all gradients so that their joint norm is at most ``max_norm``; gives the norm before.

        No communication: every rank holds the same gradients, or knows the norm of those in shards.
        """
        if self._sharded is not None:
            return self._sharded.clip_(max_norm)
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def state_dict(self) -> dict[str, Any]:
        """Method state, step counter and tasks; tensors and plain values only."""
        return {
            "method": self.method.pack(self.state),
            "steps": self.steps,
            "tasks": list(self.tasks),
            "weights": self._weights,
            "loss_scale": [self.scale.scale, self.scale.good],
            "skips": [self.skips.in_a_row, self.skips.total],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._agreed.tasks = tuple(state["tasks"])
        self.steps = int(state["steps"])
        self._weights = state["weights"]
        self.scale.scale, self.scale.good = state["loss_scale"]
        self.skips.in_a_row, self.skips.total = state.get("skips", (0, 0))
        self._micro.clear()
        self.state = self.method.unpack(state["method"], len(self.tasks)) if self.tasks else None
