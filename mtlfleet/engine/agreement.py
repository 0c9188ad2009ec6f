"""What all ranks agree on before a step: tasks, mean losses, what is shared, and where the numbers go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mtlfleet.engine import cost
from mtlfleet.engine.backward import Graph, batched
from mtlfleet.engine.collect import Plan
from mtlfleet.engine.discovery import Reach, discover, lies_behind, numbers_of
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.factored import KINDS, Factors
from mtlfleet.engine.gradients import Losses, Needs
from mtlfleet.engine.layers import Call, Recorder, uses
from mtlfleet.engine.measured import Contest, Way
from mtlfleet.engine.representation import refuse_without
from mtlfleet.errors import EngineRefused

BACKWARDS = ("sequential", "batched", "factored", "auto", "measured")
CHOSEN = ("auto", "measured")


class Agreement:
    """Kept from step to step, and found anew when any rank's graph may have changed."""

    def __init__(
        self,
        model: nn.Module,
        method: Any,
        exchange: Exchange,
        backward: str,
        chunk: int,
        approximate: str | None,
        declared: Sequence[nn.Parameter] | None,
    ) -> None:
        self._model = model
        self._method = method
        self._exchange = exchange
        self._backward, self._chunk, self._approximate = backward, chunk, approximate
        self._declared = declared
        self._found: Reach | None = None
        self._signature: object = None
        self._plan: Plan | None = None
        self.tasks: tuple[str, ...] = ()
        self.behind = False  # every shared parameter lies behind the representation, on every rank
        self.width = 0  # numbers of the representation per sample
        self.size = 0.0  # numbers in the graph of a step, about
        self.settled = False  # no rank's graph had changed in this step
        self.factors: Factors | None = None
        self.calls: dict[str, list[Call]] = {}
        self._probed: set[str] = set()  # operations of which batched passes are known to go through
        self._unbatched = False  # "auto" would have batched, and some rank could not
        alone = getattr(method, "batches", 1) == 1 and approximate is None
        # Layers may be factored.
        self.looks = backward in ("factored", *CHOSEN) and alone and method.needs is Needs.GRAM
        chooses = self.looks or (backward in CHOSEN and alone and method.needs is Needs.ROWS)
        self._recorder = Recorder(model, KINDS) if chooses else None
        self.contest: Contest | None = None  # between the ways, when they are to be measured

    @property
    def reach(self) -> Reach:
        """Raises RuntimeError before the first step."""
        if self._found is None:
            raise RuntimeError("what is shared is known after the first step")
        return self._found

    @property
    def plan(self) -> Plan:
        """Raises RuntimeError before the first step."""
        if self._plan is None:
            raise RuntimeError("where numbers go is known after the first step")
        return self._plan

    @property
    def adds_up(self) -> bool:
        """Whether task gradients of micro-batches are, or can be, computed."""
        return self._backward != "factored"

    def holds(self, rows: Tensor) -> bool:
        """Whether rows of an earlier step have the size of this one's."""
        return rows.shape == (len(self.tasks), self.plan.layout.shard)

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Layers called again inside (by checkpoints, in passes before the step's own) are not noted."""
        if self._recorder is not None:
            self._recorder.recording = False
        try:
            yield
        finally:
            if self._recorder is not None:
                self._recorder.recording = True

    def record(self, recording: bool) -> None:
        """Layers called again inside a backward pass (checkpoints) are not noted; after it, nothing noted is kept."""
        if self._recorder is not None:
            self._recorder.recording = recording
            if recording:
                self.calls = {}

    def add_up(self) -> None:
        """There are micro-batches. Their task gradients are summed, so none are factored: from here on ``"measured"``,
        and ``"auto"`` where it may have factored, take one pass per task."""
        if self._recorder is not None and (self._backward == "measured" or (self.looks and self._backward == "auto")):
            self._recorder.listen(())
            self._recorder, self.looks, self._signature = None, False, None

    def told(self, way: str) -> str:
        """A step's way, and why it is not the one that was computed to be cheapest, if it is not."""
        if self.contest is not None and way != "weighted":
            return f"{way}, {self.contest}"
        if self._unbatched and way in ("sequential", "heads first"):
            return f"{way}, an operation cannot be batched"
        return way

    def _sign(self, batches: Sequence[Mapping[str, Tensor]], zs: Sequence[Tensor | None]) -> object:
        """What a step's graph is recognised by. Only layers that are listened to count: the same ones on all ranks."""
        calls = tuple((name, len(made), all(call.intact for call in made)) for name, made in self.calls.items())
        present = tuple(tuple(sorted(losses)) for losses in batches)
        return (present, self._model.training, tuple(z is not None for z in zs), calls, *_frozen(self._model))

    def prepare(
        self,
        batches: Sequence[Mapping[str, Tensor]],
        zs: Sequence[Tensor | None],
        say: Callable[[Tensor, bool], Tensor],
    ) -> tuple[list[Losses], list[list[bool]]]:
        """Average the losses over ranks; find tasks, shared parameters and layouts when the graph may have changed.

        Whether it changed is agreed in the same message: one rank that sees a new task makes all of them look again.
        ``say(numbers, changed here)`` averages over ranks.
        """
        names = sorted({task for losses in batches for task in losses})
        for losses in batches:
            for task, loss in losses.items():
                if loss.numel() != 1:
                    raise ValueError(f"the loss of task {task!r} must be a scalar; found shape {tuple(loss.shape)}")
        if not self.tasks:
            self.tasks = self._exchange.union(names)
            if not self.tasks:
                raise ValueError("step needs at least one task's loss")
        if missing := set(names) - set(self.tasks):
            raise ValueError(f"tasks {sorted(missing)} appear after the first step; known: {', '.join(self.tasks)}")
        self.calls = self._recorder.take() if self._recorder is not None else {}
        here = [number for losses in batches for number in _numbers(losses, self.tasks)]
        changed = self._sign(batches, zs) != self._signature
        told = say(torch.tensor([*here, float(changed)], dtype=torch.float64), changed)
        values = told[:-1].view(len(batches), 2, len(self.tasks))
        self.settled = not float(told[-1])
        if not self.settled:
            heard = self._recorder is None or self._recorder.everything
            self._discover(batches, zs)
            # Found anew while only some layers were listened to: those decided this step, all of them the next.
            self._signature = self._sign(batches, zs) if heard else None
        if self.contest is not None:
            self._plan, self.factors = self.contest.now.plan, self.contest.now.factors
        return [Losses(part[0].clone()) for part in values], [(part[1] > 0).tolist() for part in values]

    def _discover(self, batches: Sequence[Mapping[str, Tensor]], zs: Sequence[Tensor | None]) -> None:
        merged = {task: loss for losses in batches for task, loss in losses.items()}
        self._found = discover(self._model, merged, self.tasks, self._exchange, self._declared, self._found)
        if not self._found.shared:
            raise ValueError("no parameter is reached by two tasks: there is nothing to balance")
        pairs = zip(zs, batches, strict=True)
        self.width = max((z[0].numel() for z in zs if z is not None and len(z)), default=0)
        apart = any(losses and (z is None or not lies_behind(z, losses, self._found.shared)) for z, losses in pairs)
        here = torch.tensor([float(apart), float(self.width), numbers_of(merged.values())])
        agreed = self._exchange.maximum(here).tolist()
        self.behind, self.width, self.size = not agreed[0], int(agreed[1]), agreed[2]
        if self._approximate == "ub" or self._method.needs is Needs.REPRESENTATION:
            refuse_without(self.behind, "ub" if self._approximate else f"method {self._method.name!r}")
        chunk = (self._chunk or len(self.tasks)) if self._backward == "batched" else 0
        self.factors, self._unbatched, self.contest = None, False, None
        if self._recorder is not None:
            chunk = self._cheapest(self._recorder, merged, zs[0])
            if self.contest is not None:
                return
            if self.factors is not None:
                self._plan = self.factors.whole
                return
        if self._plan is None or self._plan.chunk != chunk or not self._plan.fits(self._found):
            self._plan = Plan.of(self._found, self._exchange, chunk)

    def _cheapest(self, recorder: Recorder, losses: Mapping[str, Tensor], z: Tensor | None) -> int:
        """Decide, on all ranks alike, between factored (sets ``factors``), batched (gives the chunk) and sequential."""
        counts, nodes = uses(losses.values())
        # Other forward passes, and outputs that were written over, have left calls that no loss goes through.
        live = {name: [call for call in made if call.edge.node in nodes] for name, made in self.calls.items()}
        self.calls = {name: made for name, made in live.items() if made}
        found = Factors.of(self.reach, recorder, self.calls, counts, self._exchange) if self.looks else None
        if found is not None and self._backward in CHOSEN and not found.fits(len(self.tasks)):
            found = None
        everything, chunk = recorder.everything, 0
        if self._backward in CHOSEN and everything:
            chunk = self._batches(recorder, losses, z, nodes, found)
        if self._backward == "measured" and everything:
            ways = [Way(Plan.of(self.reach, self._exchange))]
            ways += [Way(Plan.of(self.reach, self._exchange, chunk))] if chunk else []
            ways += [Way(found.whole, found)] if found is not None else []
            self.contest, chunk = Contest(ways, self._exchange), 0
        self.factors = None if chunk else found
        recorder.listen(() if self.factors is None else self.factors.layers, again=not everything)
        self.calls = {name: made for name, made in self.calls.items() if recorder.hears(name)}
        return chunk

    def _batches(
        self,
        recorder: Recorder,
        losses: Mapping[str, Tensor],
        z: Tensor | None,
        nodes: set[object],
        factors: Factors | None,
    ) -> int:
        """Tasks per batched pass if that is computed to be cheapest and goes through on every rank, else 0."""
        numbers = [call.numbers for layer in recorder.layers for call in self.calls.get(layer.name, ())]
        most = int(self._exchange.maximum(torch.tensor([float(max(numbers, default=0))])))
        parameters = self.reach.shared if self.behind else (*self.reach.shared, *self.reach.own_parameters)
        chunk = cost.chunk(len(self.tasks), sum(p.numel() for p in parameters), most)
        if (
            self._backward == "auto"
            and factors is not None
            and cost.outweighs(factors.saved, len(self.tasks), factors.called)
        ):
            return 0
        if chunk:
            self._unbatched = bool(self._exchange.maximum(torch.tensor([float(not self._probe(losses, z, nodes))])))
        return 0 if self._unbatched else chunk

    def _probe(self, losses: Mapping[str, Tensor], z: Tensor | None, nodes: set[object]) -> bool:
        """Whether a batched pass of this rank's graph goes through; operations that have once are not tried again."""
        kinds = {type(node).__name__ for node in nodes}
        if kinds <= self._probed:
            return True
        graph = Graph(losses, self.reach, z=z if self.behind else None)
        inputs = self.reach.shared if graph.z is not None else (*self.reach.shared, *self.reach.own_parameters)
        try:
            with self.unheard():
                next(batched(graph, inputs, 2), None)
        except EngineRefused:
            return False
        self._probed |= kinds
        return True


def _numbers(losses: Mapping[str, Tensor], tasks: Sequence[str]) -> list[float]:
    """[2K]: each task's loss, then whether it leads to gradients; zero where there is none."""
    if not losses:
        return [0.0] * (2 * len(tasks))
    device = next(iter(losses.values())).device
    # Together: one wait for the device, not one per task.
    flat = [loss.detach().reshape(()) for loss in losses.values()]
    read = torch.stack([loss if loss.device == device else loss.to(device) for loss in flat]).tolist()
    told = dict(zip(losses, read, strict=True))
    return [told.get(task, 0.0) for task in tasks] + [float(t in losses and losses[t].requires_grad) for t in tasks]


def _frozen(model: nn.Module) -> list[bool]:
    """Which parameters require gradients, module after module; in every step, so without names."""
    found, stack = [], [model]
    while stack:
        module = stack.pop()
        found += [parameter.requires_grad for parameter in module._parameters.values() if parameter is not None]
        stack.extend(child for child in module._modules.values() if child is not None)
    return found
