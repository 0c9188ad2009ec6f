"""What architectures over a staged trunk have in common: fields, encoders, heads, and roles by reachability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mtlfleet import registry
from mtlfleet.architectures.base import Architecture, Batch, Context, Output, Shape, Stage
from mtlfleet.architectures.heads import drawn, head
from mtlfleet.engine.discovery import reached
from mtlfleet.engine.modules import kept_buffers
from mtlfleet.plan.tasks import Task

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Staged(Architecture):
    """An architecture whose trunk is a backbone's stages; a subclass is a frozen dataclass with more fields, or none.

    ``backbone_params`` is a map of what else the backbone takes, or None; ``head`` is ``plain`` or ``deeplab``.
    """

    backbone: str = "mlp"
    width: int = 64
    depth: int = 2
    dropout: float = 0.0
    backbone_params: Any = None
    head: str = "plain"
    head_hidden: int = 0

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("depth", 0), ("head_hidden", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{self.name}: {name} must be at least {least}, found {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{self.name}: dropout must be in [0, 1), found {self.dropout}")
        if self.head not in ("plain", "deeplab"):
            raise ValueError(f"{self.name}: head is plain or deeplab, found {self.head!r}")
        if self.backbone_params is not None and not isinstance(self.backbone_params, Mapping):
            raise ValueError(f"{self.name}: backbone_params is a map of parameters, found {self.backbone_params!r}")

    def encoder(self, input_shape: Shape) -> list[Stage]:
        """A new trunk. Raises ValueError for parameters the backbone does not have."""
        kind = registry.load("backbone", self.backbone)
        more = dict(self.backbone_params or {})
        known = [p.name for p in registry.find("backbone", self.backbone).parameters]
        strange = sorted(set(more) - set(known))
        if strange:
            raise ValueError(f"backbone {self.backbone} has no parameter {strange[0]!r}; it has {', '.join(known)}")
        given = {"width": self.width, "depth": self.depth, "dropout": self.dropout, **more}
        found: list[Stage] = kind(**given).stages(input_shape)
        return found

    def encoders(self, input_shape: Shape, root: int, whose: str, count: int) -> list[list[Stage]]:
        """``count`` trunks, drawn from (root, whose, number) alone."""
        return [drawn(root, f"{whose}/{e}", lambda: self.encoder(input_shape)) for e in range(count)]

    def encoder_shape(self, input_shape: Shape) -> Shape:
        """What a trunk gives; a trunk is built and thrown away for it."""
        return drawn(0, "shape", lambda: self.encoder(input_shape))[-1].shape

    def heads(self, tasks: Sequence[Task], shape: Shape, input_shape: Shape, root: int) -> nn.ModuleDict:
        """A head per task; its first weights depend on ``root`` and the task's name alone."""
        return nn.ModuleDict({t.name: drawn(root, f"head/{t.name}", self._head(t, shape, input_shape)) for t in tasks})

    def _head(self, task: Task, shape: Shape, input_shape: Shape) -> Callable[[], nn.Module]:
        return lambda: head(task, shape, input_shape, self.head, self.head_hidden)


def per_input(batch: Batch, tasks: Sequence[str], make: Callable[[Tensor], T]) -> dict[str, T]:
    """``make`` of each task's input: called once when all tasks read the same one."""
    if isinstance(batch.inputs, Tensor):
        once = make(batch.inputs)
        return dict.fromkeys(tasks, once)
    return {task: make(batch.inputs[task]) for task in tasks}


def one_input(batch: Batch, name: str) -> Tensor:
    """The inputs all tasks share. Raises ValueError when each task has its own."""
    if not isinstance(batch.inputs, Tensor):
        raise ValueError(f"{name} mixes the features of one input; this dataset has an input per task: use hps or mmoe")
    return batch.inputs


class StagedModel(nn.Module):
    """A model with ``heads`` by task name. ``gate_names`` start the names of parameters whose role is ``gate``."""

    gate_names: tuple[str, ...] = ()
    heads: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self._roles: dict[str, str] = {}

    @property
    def tasks(self) -> list[str]:
        return list(self.heads)

    def forward(self, batch: Batch, ctx: Context) -> Output:
        raise NotImplementedError

    def predictions(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each head's, on its task's features."""
        return {task: head_(features[task]) for task, head_ in self.heads.items()}

    def settle(self, input_shape: Shape) -> nn.Module:
        """Find the roles by one forward pass on zeros, walking back from each prediction; returns the model.

        With a single task, what is not its head or gate is called shared, as the engine calls it.
        """
        batch = Batch(torch.zeros(2, *input_shape), {}, {}, torch.arange(2))
        with torch.random.fork_rng(devices=[]), kept_buffers(self):
            output = self(batch, Context())
        reach = {task: reached(p) for task, p in output.predictions.items()}
        for name, parameter in self.named_parameters():
            tasks = [task for task, leaves in reach.items() if id(parameter) in leaves]
            self._roles[name] = self._role(name, tasks)
        return self

    def _role(self, name: str, tasks: list[str]) -> str:
        only = len(tasks) == 1 and (len(self.heads) > 1 or name.startswith("heads."))
        if name.startswith(self.gate_names) and self.gate_names:
            return f"gate:{tasks[0]}" if only else "gate"
        return f"task:{tasks[0]}" if only else "shared"

    def roles(self) -> dict[str, str]:
        """Each parameter's role, as gradients reach it."""
        return dict(self._roles)


def run(stages: nn.Module, x: Tensor) -> Tensor:
    """A trunk's stages, one after the other."""
    for stage in stages.children():
        x = stage(x)
    return x


def pooled(x: Tensor, side: int = 4) -> Tensor:
    """What gates look at: a vector as it is; a map averaged to ``side`` x ``side`` at most, flattened."""
    if x.dim() == 4:
        size = (min(side, x.shape[2]), min(side, x.shape[3]))
        x = nn.functional.adaptive_avg_pool2d(x, size)
    return x.flatten(1)


def pooled_width(shape: Shape, side: int = 4) -> int:
    """Length of ``pooled`` of a sample of this shape."""
    if len(shape) == 3:
        return shape[0] * min(side, shape[1]) * min(side, shape[2])
    total = 1
    for n in shape:
        total *= n
    return total


def mixed(weights: Tensor, features: Sequence[Tensor]) -> Tensor:
    """sum_e weights[:, e] * features[e]; weights [B, E] or [E]."""
    total = None
    for e, feature in enumerate(features):
        weight = weights[..., e].reshape(-1, *(1 for _ in feature.shape[1:]))
        total = weight * feature if total is None else total + weight * feature
    assert total is not None
    return total
