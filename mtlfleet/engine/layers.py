"""Layers whose task gradient is a product of two factors, seen from outside: what went in, what is to be had of what
came out.

The weight's gradient for task k is ``D_k^T A`` (A [R, d_in] from the inputs, D_k [R, d_out] gradients of the outputs; R
rows seen by the layer), the bias's the sum of D_k's rows. So products of task gradients need no task gradient:
``<g_j, g_k> = sum(D_j * (A A^T D_k))``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from mtlfleet.engine.discovery import nodes
from mtlfleet.engine.products import CACHED

NARROWEST = 64  # columns of D in one product


@dataclass(frozen=True)
class Call:
    """One use of a layer in a forward pass."""

    inputs: Tensor  # as the layer read them, no graph
    version: int
    edge: GradientEdge
    rows: int  # R
    numbers: int  # of the inputs or of the outputs, whichever are more

    @property
    def intact(self) -> bool:
        """The inputs still hold what the layer read."""
        return self.inputs._version == self.version


class Layer(ABC):
    """A layer whose weight (and bias, if it has one) is shared and used in its calls only. One subclass per kind."""

    d_in: int
    d_out: int

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module

    @property
    def weight(self) -> nn.Parameter:
        """Its first dimension is d_out, the others make d_in."""
        weight: nn.Parameter = self.module.weight  # type: ignore[assignment]
        return weight

    @property
    def bias(self) -> nn.Parameter | None:
        """[d_out], if there is one."""
        bias: nn.Parameter | None = self.module.bias  # type: ignore[assignment]
        return bias

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Weight and bias."""
        return tuple(self.module.parameters(recurse=False))

    @property
    def dtype(self) -> torch.dtype:
        """float32, or the weight's type if wider: what the factors are kept in."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    @property
    def unfolding(self) -> int:
        """Numbers moved per row to make A from the inputs; 0 where they are A."""
        return 0

    @abstractmethod
    def rows(self, outputs: Tensor) -> int:
        """R of a call that gave these outputs."""

    @abstractmethod
    def factor(self, inputs: Tensor) -> Tensor:
        """What the layer read -> A [R, d_in]."""

    @abstractmethod
    def spread(self, gradient: Tensor, into: Tensor) -> None:
        """Copy a gradient of the outputs into D [R, d_out], its rows in A's order."""

    def inputs(self, calls: Sequence[Call]) -> Tensor:
        """A [R, d_in] of all calls, one after the other."""
        found = [self.factor(call.inputs) for call in calls]
        if not found:
            return torch.zeros(0, self.d_in, dtype=self.dtype, device=self.weight.device)
        return (found[0] if len(found) == 1 else torch.cat(found)).to(self.dtype)


class Recorder:
    """Notes the calls of a model's layers while gradients are enabled, until a step takes them.

    Only layers that are listened to cost anything: a noted input stays alive until the step is through.
    """

    def __init__(self, model: nn.Module, kinds: Mapping[type[nn.Module], Callable[[str, Any], Layer | None]]) -> None:
        found = ((name, module) for name, module in model.named_modules() if type(module) in kinds)
        made = (kinds[type(module)](name, module) for name, module in found)
        self.layers = [layer for layer in made if layer is not None]
        self.recording = True
        self._calls: dict[str, list[Call]] = {}
        self._handles: dict[str, Any] = {}
        self.listen(self.layers)

    def listen(self, layers: Iterable[Layer], *, again: bool = False) -> None:
        """From the next forward pass on, note the calls of these layers and of no others; ``again``: of all of them."""
        wanted = {layer.name: layer for layer in (self.layers if again else layers)}
        for name in [name for name in self._handles if name not in wanted]:
            self._handles.pop(name).remove()
            self._calls.pop(name, None)
        for name, layer in wanted.items():
            if name not in self._handles:
                # Before anyone else's hook: what those return is not the layer's output.
                self._handles[name] = layer.module.register_forward_hook(self._hook(layer), prepend=True)

    @property
    def everything(self) -> bool:
        """Whether all layers are listened to."""
        return len(self._handles) == len(self.layers)

    def hears(self, name: str) -> bool:
        """Whether this layer's calls are noted."""
        return name in self._handles

    def _hook(self, layer: Layer) -> Any:
        def called(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not self.recording or torch.compiler.is_compiling() or not output.requires_grad:
                return
            read = inputs[0].detach()
            more = max(read.numel(), output.numel())
            call = Call(read, read._version, get_gradient_edge(output), layer.rows(output), more)
            self._calls.setdefault(layer.name, []).append(call)

        return called

    def take(self) -> dict[str, list[Call]]:
        """The calls since the last step, by layer."""
        calls, self._calls = self._calls, {}
        return calls


def uses(losses: Iterable[Tensor]) -> tuple[Mapping[int, int], set[object]]:
    """(id of a leaf tensor -> how many operations of these losses' graphs read it, the graphs' nodes)."""
    counts: dict[int, int] = {}
    found = set(nodes(losses))
    for node in found:
        for parent, _ in node.next_functions:
            variable = getattr(parent, "variable", None)
            if variable is not None:
                counts[id(variable)] = counts.get(id(variable), 0) + 1
    return counts, found


def factor_gram(inputs: Tensor, outputs: Tensor, all_inputs: Tensor, all_outputs: Tensor, bias: bool) -> Tensor:
    """This rank's part of a layer's Gram [K, K], float64 on the CPU.

    inputs [R, d_in], outputs [K, R, d_out]: this rank's A and D; all_inputs [S, d_in], all_outputs [K, S, d_out]:
    every rank's.
    """
    overlap = inputs.to(torch.float64) @ all_inputs.to(torch.float64).t()
    if bias:
        overlap += 1.0
    tasks, _, width = outputs.shape
    gram = torch.zeros(tasks, tasks, dtype=torch.float64, device=outputs.device)
    step = max(NARROWEST, CACHED // max(1, tasks * all_inputs.shape[0]))
    for start in range(0, width, step):  # some outputs at a time: in float64 all of them would be twice what is kept
        mine = outputs[:, :, start : start + step].to(torch.float64)
        theirs = mine if all_outputs is outputs else all_outputs[:, :, start : start + step].to(torch.float64)
        gram.addmm_(mine.flatten(1), torch.matmul(overlap, theirs).flatten(1).t())
    return gram.cpu()
