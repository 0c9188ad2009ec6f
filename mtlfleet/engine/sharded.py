"""An optimizer whose state for the shared parameters is cut over the ranks, as their gradients are.

Each rank steps on its columns of the shared parameters; then the parameters are gathered, where otherwise the gradient
is: the same bytes, and 1/W of the state. Task parameters are stepped on every rank, with the same numbers.

Source: Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, SC 2020 (stage 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mtlfleet.engine.collect import Plan
from mtlfleet.engine.elementwise import Make, grouped, refuse_whole_tensors
from mtlfleet.engine.exchange import Exchange
from mtlfleet.engine.outcome import gathered
from mtlfleet.errors import EngineRefused

Options = Callable[[str, nn.Parameter], Mapping[str, Any]]


class _Stretch(NamedTuple):
    """Numbers of one parameter that this rank owns."""

    parameter: int
    start: int
    column: int  # of the rank's shard
    size: int


@dataclass
class _Group:
    """Parameters of equal options; ``shard`` is this rank's part of those that are shared, flat."""

    options: dict[str, Any]
    shard: nn.Parameter
    members: list[nn.Parameter] = field(default_factory=list)
    stretches: list[_Stretch] = field(default_factory=list)


def refuse_cutting(method: Any) -> None:
    """Raise EngineRefused for a method that cuts the shared gradient to a norm."""
    if getattr(method, "shared_norm", None) is not None:
        raise EngineRefused(
            f"method {method.name!r} cuts the shared gradient, which a sharded optimizer keeps in shards",
            help="leave the method's shared_norm out, and use engine.clip_",
        )


class ShardedOptimizer:
    """Made by ``GradientEngine.sharded_optimizer``; used like an optimizer of torch.

    ``optimizer`` is the real one, for learning-rate schedulers. Its groups hold a flat shard and the model's
    parameters; shared ones never get a ``.grad``, so it keeps no state for them. ``bytes_sent``: in the last step.
    """

    def __init__(self, model: nn.Module, exchange: Exchange, make: Make, options: Options | None) -> None:
        self._model = model
        self._exchange = exchange
        self._groups = _groups(model, options)
        device = self._groups[0].shard.device
        chosen = [group.options for group in self._groups]
        refuse_whole_tensors(make, chosen, device)
        self.optimizer: Any = make(grouped(chosen, [[group.shard, *group.members] for group in self._groups]))
        self._plan: Plan | None = None
        self._loaded: Any = None
        self._taken = False  # a gradient is there
        self.norm = 0.0  # of the shared gradient
        self.bytes_sent = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The real optimizer's, learning rates among them."""
        found: list[dict[str, Any]] = self.optimizer.param_groups
        return found

    def take(self, plan: Plan, shard: Tensor, norm: float) -> None:
        """This rank's columns [n] of the shared gradient; the engine's call.

        Raises EngineRefused when what is shared has changed: the state would lie under other parameters.
        """
        if self._plan is None:
            self._lay_out(plan)
        elif _places(self._plan) != _places(plan):
            raise EngineRefused(
                "what is shared has changed, and the sharded optimizer's state lies by what it was",
                notes=["a parameter was frozen or freed, or a task reaches others than before"],
                help="make a new sharded optimizer and engine where the set of trained parameters changes",
            )
        self._plan, self.norm, self._taken = plan, norm, True
        for group in self._groups:
            pieces = [shard[s.column : s.column + s.size] for s in _joined(group.stretches)]
            if pieces:
                group.shard.grad = pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _lay_out(self, plan: Plan) -> None:
        """The shards get their size, and state that an optimizer makes before its first step with them."""
        layout = plan.layout
        if any(parameter.dtype != layout.dtype() for parameter in layout.parameters):
            raise EngineRefused(
                f"a shard is one tensor of {layout.dtype()}, and not all shared parameters have that type",
                help="keep parameters in float32 (autocast computes in half precision), or use an ordinary optimizer",
            )
        if self._loaded is not None and self._loaded != _places(plan):
            raise EngineRefused("the loaded optimizer state belongs to other shared parameters than this model's")
        of = {id(parameter): group for group in self._groups for parameter in group.members}
        for found in layout.columns(self._exchange.rank):
            stretch = _Stretch(*found)
            of[id(layout.parameters[stretch.parameter])].stretches.append(stretch)
        for group in self._groups:
            size = sum(stretch.size for stretch in group.stretches)
            for name, value in self.optimizer.state.get(group.shard, {}).items():
                if isinstance(value, Tensor) and value.shape == group.shard.shape != (size,):
                    self.optimizer.state[group.shard][name] = value.expand(size).clone()
            group.shard.data = group.shard.new_zeros(size)
        for parameter in layout.parameters:
            self.optimizer.state.pop(parameter, None)

    @torch.no_grad()
    def step(self) -> None:
        """Step on this rank's columns and on the task parameters; gather the shared parameters.

        The parameters as they are now count, not as the last step left them: load or change them as you like. After a
        step of the engine that was skipped nothing happens.
        """
        before = self._exchange.bytes_sent
        if self._taken and self._plan is not None:
            self._read(self._plan)
            self.optimizer.step()
            self._write(self._plan)
        self.bytes_sent = self._exchange.bytes_sent - before

    def _read(self, plan: Plan) -> None:
        flat = [parameter.reshape(-1) for parameter in plan.layout.parameters]
        for group in self._groups:
            cursor = 0
            for index, start, _, size in group.stretches:
                group.shard[cursor : cursor + size] = flat[index][start : start + size]
                cursor += size

    def _write(self, plan: Plan) -> None:
        layout = plan.layout
        values = layout.empty(of=layout.shard)
        for group in self._groups:
            cursor = 0
            for stretch in _joined(group.stretches):
                values[stretch.column : stretch.column + stretch.size] = group.shard[cursor : cursor + stretch.size]
                cursor += stretch.size
        whole = gathered(plan, self._exchange, values)
        for parameter, part in zip(layout.parameters, layout.views(whole), strict=True):
            parameter.copy_(part)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self._taken = self._taken and not set_to_none
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def clip_(self, max_norm: float) -> float:
        """Scale the shards' and the task parameters' gradients to a joint norm of at most ``max_norm``.

        Gives the norm before. No communication: the shared gradient's norm is known since the engine's step.
        """
        own = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        rest = float(torch.stack(torch._foreach_norm(own)).norm()) if own else 0.0
        total = math.hypot(self.norm if self._taken else 0.0, rest)
        factor = min(1.0, max_norm / (total + 1e-6))
        shards = [group.shard.grad for group in self._groups if group.shard.grad is not None]
        if factor < 1.0 and (own or shards):
            torch._foreach_mul_([*own, *shards], factor)
            self.norm *= factor
        return total

    def state_dict(self) -> dict[str, Any]:
        """This rank's: a checkpoint keeps every rank's, and each loads its own. For the same number of ranks only."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "rank": self._exchange.rank,
            "world": self._exchange.world,
            "places": self._loaded if self._plan is None else _places(self._plan),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises EngineRefused for another rank's state, another world's, or other shared parameters'."""
        mine = (self._exchange.rank, self._exchange.world)
        if (state["rank"], state["world"]) != mine:
            raise EngineRefused(
                f"the optimizer state is that of rank {state['rank']} of {state['world']}; "
                f"this is rank {mine[0]} of {mine[1]}",
                help="save every rank's state_dict and give each rank its own; the number of ranks stays as it was",
            )
        if self._plan is not None and state["places"] not in (None, _places(self._plan)):
            raise EngineRefused("the loaded optimizer state belongs to other shared parameters than this model's")
        self._loaded = state["places"]
        self.optimizer.load_state_dict(state["optimizer"])


def _groups(model: nn.Module, options: Options | None) -> list[_Group]:
    """One for each set of options, in the order in which the model's parameters first have them."""
    found: list[_Group] = []
    for name, parameter in model.named_parameters():
        chosen = dict(options(name, parameter)) if options is not None else {}
        group = next((g for g in found if g.options == chosen), None)
        if group is None:
            # One number until it is known what is shared.
            kind = torch.promote_types(parameter.dtype, torch.float32)
            group = _Group(chosen, nn.Parameter(torch.zeros(1, device=parameter.device, dtype=kind)))
            found.append(group)
        group.members.append(parameter)
    if not found:
        raise ValueError("the model has no parameters")
    return found


def _joined(stretches: list[_Stretch]) -> list[_Stretch]:
    """Neighbouring columns as one stretch; the order is the group's."""
    found: list[_Stretch] = []
    for stretch in stretches:
        last = found[-1] if found else None
        if last is not None and last.column + last.size == stretch.column:
            found[-1] = last._replace(size=last.size + stretch.size)
        else:
            found.append(stretch)
    return found


def _places(plan: Plan) -> list[Any]:
    """Where the numbers lie, as plain values."""
    layout = plan.layout
    return [list(layout.names), [parameter.numel() for parameter in layout.parameters], layout.world, layout.bucket]
