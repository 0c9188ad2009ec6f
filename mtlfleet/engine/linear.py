"""Linear layers seen from outside: what went in, where the gradient of what came out is to be had, what each way costs.

A linear layer's task gradient is ``D_k^T A`` (A [R, d_in] inputs, D_k [R, d_out] gradients of the outputs; R rows
seen by
the layer), so products of task gradients need no task gradient: ``<g_j, g_k> = sum(D_j * (A A^T D_k))``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge


@dataclass(frozen=True)
class Call:
    """One use of a layer in a forward pass."""

    inputs: Tensor  # [R, d_in], no graph
    version: int
    edge: GradientEdge

    @property
    def intact(self) -> bool:
        """The inputs still hold what the layer read."""
        return self.inputs._version == self.version


@dataclass(frozen=True)
class Layer:
    """A linear layer whose weight (and bias, if it has one) is shared and used in its calls only."""

    name: str
    module: nn.Linear

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Weight and bias."""
        return tuple(self.module.parameters(recurse=False))


class Recorder:
    """Notes the calls of every ``nn.Linear`` of a model while gradients are enabled, until a step takes them."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [Layer(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
        self.recording = True
        self._calls: dict[str, list[Call]] = {}
        for layer in self.layers:
            # Before anyone else's hook: what those return is not the layer's output.
            layer.module.register_forward_hook(self._hook(layer.name), prepend=True)

    def _hook(self, name: str) -> Any:
        def called(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not self.recording or torch.compiler.is_compiling() or not output.requires_grad:
                return
            flat = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            self._calls.setdefault(name, []).append(Call(flat, flat._version, get_gradient_edge(output)))

        return called

    def take(self) -> dict[str, list[Call]]:
        """The calls since the last step, by layer."""
        calls, self._calls = self._calls, {}
        return calls


def uses(losses: Iterable[Tensor]) -> Mapping[int, int]:
    """id of a leaf tensor -> how many operations of these losses' graphs read it."""
    counts: dict[int, int] = {}
    seen: set[object] = set()
    stack = [loss.grad_fn for loss in losses]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for parent, _ in node.next_functions:
            variable = getattr(parent, "variable", None)
            if variable is not None:
                counts[id(variable)] = counts.get(id(variable), 0) + 1
            stack.append(parent)
    return counts


def gain(tasks: int, rows: int, world: int, d_in: int, d_out: int) -> float:
    """Operations saved by the factored way in one layer; negative where it loses.

    Direct: K weight gradients, their copies, the Gram in float64 (twice the price), the combination. Factored: A A^T of
    all ranks' rows, its product with each D_k, their products in float64, one weight gradient, the gathered factors.
    """
    every, size = rows * world, d_in * d_out
    direct = 2 * tasks * rows * size + tasks * size * (12 + 4 * tasks)
    factored = 4 * rows * every * (d_in + tasks * d_out) + 4 * tasks**2 * rows * d_out + 2 * rows * size
    factored += 12 * every * (d_in + tasks * d_out)
    return float(direct - factored)


def factor_gram(inputs: Tensor, outputs: Tensor, all_inputs: Tensor, all_outputs: Tensor, bias: bool) -> Tensor:
    """This rank's part of a layer's Gram [K, K], float64 on the CPU.

    inputs [R, d_in], outputs [K, R, d_out]: this rank's A and D; all_inputs [S, d_in], all_outputs [K, S, d_out]:
    every rank's.
    """
    outputs = outputs.to(torch.float64)
    overlap = inputs.to(torch.float64) @ all_inputs.to(torch.float64).t()
    if bias:
        overlap += 1.0
    spread = torch.matmul(overlap, all_outputs.to(torch.float64))
    return (outputs.flatten(1) @ spread.flatten(1).t()).cpu()
