"""A small network with every kind of parameter, a global batch, and what each method should make of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mtlfleet import methods
from mtlfleet.engine import GradientEngine
from mtlfleet.engine.gradients import Step
from mtlfleet.engine.reference import DenseGradients

TASKS = ("alpha", "beta", "gamma")
STEPS = 3
BATCH = 13  # not divisible by 2 or 4: ranks are uneven


class Net(nn.Module):
    """Shared trunk, a layer two of three tasks share, heads, one frozen and one unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))
        self.pair = nn.Linear(5, 5)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS})
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

    def losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Per-sample losses [B] by task."""
        z = torch.tanh(self.trunk(x)) * self.frozen
        paired = torch.tanh(self.pair(z))
        features = {"alpha": paired, "beta": paired, "gamma": z}
        return {t: (self.heads[t](features[t]) - (k + 1) * y).square().mean(1) for k, t in enumerate(TASKS)}


def net() -> Net:
    torch.manual_seed(5)
    return Net()


def data(step: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(100 + step)
    return torch.randn(BATCH, 6, generator=drawn), torch.randn(BATCH, 2, generator=drawn)


def build(name: str) -> methods.Method:
    return methods.build(name, weights=(0.2, 0.5, 0.3)) if name == "linear" else methods.build(name)


def names() -> list[str]:
    return [name for name in methods.names() if name != "stl"]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_engine(
    rank: int, world: int, chosen: list[str], wire: str = "fp32", exchange: str = "auto"
) -> dict[str, list[dict[str, Tensor]]]:
    """Each method, three steps of the engine on this rank's part of each global batch; gradients by step."""
    found: dict[str, list[dict[str, Tensor]]] = {}
    for name in chosen:
        model = net()
        engine = GradientEngine(model, build(name), wire=wire, exchange=exchange, seed=3)
        found[name] = []
        for step in range(STEPS):
            x, y = data(step)
            mine = torch.from_numpy(np.array_split(np.arange(BATCH), world)[rank])
            local = model.losses(x[mine], y[mine])
            scaled = {task: each.mean() * (len(mine) * world / BATCH) for task, each in local.items()}
            info = engine.step(scaled, epoch=step)
            assert not info.skipped, info.status
            found[name].append(gradients(model))
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p -= 0.05 * p.grad
            model.zero_grad(set_to_none=True)
    return found


def by_oracle(name: str) -> list[dict[str, Tensor]]:
    """The same from the whole Jacobian in one process, written with autograd alone."""
    model, method = net(), build(name)
    state, found = method.init(len(TASKS)), []
    shared = [(n, p) for n, p in model.named_parameters() if n.startswith(("trunk", "pair"))]
    for step in range(STEPS):
        losses = [each.mean() for each in model.losses(*data(step)).values()]
        rows = []
        for loss in losses:
            grads = torch.autograd.grad(loss, [p for _, p in shared], retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [
                        (torch.zeros_like(p) if g is None else g).reshape(-1)
                        for (_, p), g in zip(shared, grads, strict=True)
                    ]
                )
            )
        dense = DenseGradients(torch.stack(rows), torch.stack(losses))
        at = Step(step, step, 3)
        weights = _weights(method, dense, state, at)
        state, _ = method.step(dense, state, at)
        step_grads, cursor = {}, 0
        for n, p in shared:
            step_grads[n] = dense.direction()[cursor : cursor + p.numel()].view_as(p).clone()
            cursor += p.numel()
        for k, task in enumerate(TASKS):
            own = list(model.heads[task].named_parameters())
            for (n, _), g in zip(
                own, torch.autograd.grad(losses[k], [p for _, p in own], retain_graph=True), strict=True
            ):
                step_grads[f"heads.{task}.{n}"] = g * (float(weights[k]) if method.heads == "weighted" else 1.0)
        found.append(step_grads)
        with torch.no_grad():
            for n, p in model.named_parameters():
                if n in step_grads:
                    p -= 0.05 * step_grads[n]
    return found


def _weights(method: methods.Method, dense: DenseGradients, state: object, at: Step) -> Tensor:
    """What the method would weigh the heads with; ones where its update is no weighting."""
    told = DenseGradients(dense.jacobian, dense.losses)
    method.step(told, state, at)
    return torch.ones(len(TASKS), dtype=torch.float64) if told.weights is None else told.weights


def relative(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of any tensor, relative to that tensor's norm."""
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    return max(float((one[n] - other[n]).norm() / other[n].norm().clamp_min(1e-12)) for n in one)
